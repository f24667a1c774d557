package devcontrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const stateVersion = 1

// state is what a control plane must keep over a restart.
type state struct {
	Version int
	Noise   key.MachinePrivate
	DERP    key.NodePrivate
	LastID  tailcfg.NodeID
	Keys    []*AuthKey
	Nodes   []*Node
	Access  Access
}

// Secrets are the private keys by which clients recognize this control plane and its relay.
type Secrets struct {
	Noise key.MachinePrivate
	DERP  key.NodePrivate
}

// Load fills the tailnet from a state file and returns the private keys in it; if the file does not exist, it returns new ones. Nodes start
// offline, and their ephemeral time-out starts again.
func (t *Tailnet) Load(path string) (Secrets, error) {
	fresh := Secrets{Noise: key.NewMachine(), DERP: key.NewNode()}
	if path == "" {
		return fresh, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fresh, t.Save(path, fresh)
	}
	if err != nil {
		return Secrets{}, err
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return Secrets{}, fmt.Errorf("%s: %w", path, err)
	}
	if st.Version != stateVersion {
		return Secrets{}, fmt.Errorf("%s: version %d, want %d", path, st.Version, stateVersion)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastID, t.access = st.LastID, st.Access
	for _, k := range st.Keys {
		t.keys[k.ID] = k
	}
	for _, n := range st.Nodes {
		n.LastSeen = time.Now()
		t.nodes[n.ID] = n
		t.touch(n)
	}
	return Secrets{Noise: st.Noise, DERP: st.DERP}, nil
}

// Save writes the state file if the state has changed.
func (t *Tailnet) Save(path string, secrets Secrets) error {
	if path == "" {
		return nil
	}
	text, dirty, err := t.snapshot(secrets)
	if err != nil || !dirty {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func (t *Tailnet) snapshot(secrets Secrets) (text []byte, dirty bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.dirty && t.edition > 0 {
		return nil, false, nil
	}
	st := state{Version: stateVersion, Noise: secrets.Noise, DERP: secrets.DERP, LastID: t.lastID, Access: t.access}
	for _, k := range t.keys {
		st.Keys = append(st.Keys, k)
	}
	for _, n := range t.nodes {
		st.Nodes = append(st.Nodes, n)
	}
	t.dirty = false
	text, err = json.MarshalIndent(st, "", " ")
	return text, true, err
}
