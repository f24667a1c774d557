package lab

import (
	"debug/buildinfo"
	"os"
	"slices"
	"strings"
	"testing"
)

// features returns the tailscale features that the worker links: the packages under tailscale.com/feature.
func features(t *testing.T) []string {
	t.Helper()
	var linked []string
	for dep := range strings.Lines(Run(t, "go", "list", "-C="+workers, "-deps", "-tags="+Tags(t), "./cmd/worker")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(dep), "tailscale.com/feature/"); ok {
			linked = append(linked, name)
		}
	}
	slices.Sort(linked)
	return linked
}

// The worker is built with the tags that leave out the features that no pod uses, and links only the other features.
func TestWorkerFeatures(t *testing.T) {
	want := strings.Fields("acme buildfeatures c2n condlite/expvar condregister/netlog condregister/oauthkey condregister/portmapper condregister/useproxy " +
		"portmapper ssh taildrop useproxy")
	if got := features(t); !slices.Equal(got, want) {
		t.Errorf("links %v, want %v", got, want)
	}
	info, err := buildinfo.ReadFile(Program(t, "worker"))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["-tags"] != Tags(t) || settings["CGO_ENABLED"] != "0" || settings["-trimpath"] != "true" {
		t.Errorf("built with %v", settings)
	}
	if status, err := os.Stat(Program(t, "worker")); err != nil || status.Size() > 23<<20 {
		t.Errorf("%d bytes on disk: %v", status.Size(), err)
	}
}
