package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
)

// settingsFile keeps, in the state directory, the preferences that were set through the LocalAPI. tsnet begins each start
// with default ones and writes those to its own state before anybody can object, so that one is no place to remember them.
// (The serve configuration stays in tsnet's state: only tsnet's Up clears that, which we never call.)
const settingsFile = "settings.json"

const settingsVersion = 1

type settings struct {
	Version int
	Prefs   *ipn.Prefs
}

// loadPrefs returns the preferences of an earlier life, nil if there are none.
func loadPrefs() (*ipn.Prefs, error) {
	text, err := os.ReadFile(settingsFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s settings
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", settingsFile, err)
	}
	if s.Version != settingsVersion {
		return nil, fmt.Errorf("%s: version %d, want %d", settingsFile, s.Version, settingsVersion)
	}
	return s.Prefs, nil
}

// savePrefs writes the preferences, without what does not outlive a start, if they differ from what is there.
func savePrefs(p *ipn.Prefs) error {
	remembered := keep(p).Prefs
	text, err := json.Marshal(settings{Version: settingsVersion, Prefs: &remembered})
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(settingsFile); err == nil && bytes.Equal(old, text) {
		return nil
	}
	temp := "." + settingsFile + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, settingsFile)
}

// restorePrefs sets the preferences again.
func restorePrefs(ctx context.Context, lc *local.Client, p *ipn.Prefs) error {
	if p == nil {
		return nil
	}
	_, err := lc.EditPrefs(ctx, keep(p))
	return err
}

// keep picks what survives a restart: all but what each start decides anew (name, control plane, being up) and the keys.
func keep(p *ipn.Prefs) *ipn.MaskedPrefs {
	return &ipn.MaskedPrefs{
		Prefs: ipn.Prefs{
			RouteAll:               p.RouteAll,
			ExitNodeID:             p.ExitNodeID,
			ExitNodeIP:             p.ExitNodeIP,
			ExitNodeAllowLANAccess: p.ExitNodeAllowLANAccess,
			CorpDNS:                p.CorpDNS,
			RunSSH:                 p.RunSSH,
			ShieldsUp:              p.ShieldsUp,
			AdvertiseRoutes:        p.AdvertiseRoutes,
			AdvertiseServices:      p.AdvertiseServices,
			NoSNAT:                 p.NoSNAT,
			NoStatefulFiltering:    p.NoStatefulFiltering,
		},
		RouteAllSet:               true,
		ExitNodeIDSet:             true,
		ExitNodeIPSet:             true,
		ExitNodeAllowLANAccessSet: true,
		CorpDNSSet:                true,
		RunSSHSet:                 true,
		ShieldsUpSet:              true,
		AdvertiseRoutesSet:        true,
		AdvertiseServicesSet:      true,
		NoSNATSet:                 true,
		NoStatefulFilteringSet:    true,
	}
}
