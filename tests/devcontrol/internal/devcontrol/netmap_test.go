package devcontrol

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"tailscale.com/tailcfg"
)

// peers returns the hostnames of a node's peers.
func peers(t *Tailnet, self tailcfg.NodeID) (names []string) {
	res, _, _ := (&netmap{tailnet: t, self: self}).next()
	for _, peer := range res.Peers {
		var n tailcfg.Node
		if err := json.Unmarshal(peer, &n); err != nil {
			panic(err)
		}
		names = append(names, n.Hostinfo.Hostname())
	}
	return names
}

// A node's peers are the nodes that it may reach or that may reach it. When a new policy ends this, the node is told that they are gone.
func TestPolicyDecidesWhoIsSeen(t *testing.T) {
	tailnet := NewTailnet("tailnet.test", 0)
	phone := tailnet.AddStranger("phone", []string{"tag:person"})
	plex := tailnet.AddStranger("plex", []string{"tag:pod"})
	jellyfin := tailnet.AddStranger("jellyfin", []string{"tag:pod"})
	listening := &netmap{tailnet: tailnet, self: plex.ID}
	if res, _, _ := listening.next(); len(res.Peers) != 2 {
		t.Errorf("without a policy: %v", res.Peers)
	}
	tailnet.SetPolicy(parse(t, `{
		"tagOwners": {"tag:person": [], "tag:pod": []},
		"acls": [{"action": "accept", "src": ["tag:person"], "dst": ["tag:pod:80"]}],
	}`))
	if res, _, _ := listening.next(); len(res.PeersRemoved) != 1 || res.PeersRemoved[0] != jellyfin.ID {
		t.Errorf("with a policy, plex hears that %v have gone", res.PeersRemoved)
	}
	for who, want := range map[tailcfg.NodeID]string{plex.ID: "phone", jellyfin.ID: "phone"} {
		if seen := peers(tailnet, who); len(seen) != 1 || seen[0] != want {
			t.Errorf("%v sees %v, not %v", who, seen, want)
		}
	}
	if seen := peers(tailnet, phone.ID); len(seen) != 2 {
		t.Errorf("the phone sees %v", seen)
	}
}

// With batches, a client learns of a change when the batch ends, and of all changes of the batch together.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tailnet := NewTailnet("tailnet.test", 0)
		tailnet.Batch = 800 * time.Millisecond
		self := tailnet.AddStranger("self", nil)
		time.Sleep(time.Second)
		listening := &netmap{tailnet: tailnet, self: self.ID}
		_, changed, _ := listening.next()
		for range 2 {
			tailnet.AddStranger("peer", nil)
		}
		select {
		case <-changed:
			t.Error("it is told at once")
		default:
		}
		began := time.Now()
		<-changed
		if waited := time.Since(began); waited > tailnet.Batch {
			t.Errorf("it is told after %v", waited)
		}
		if res, _, _ := listening.next(); len(res.PeersChanged) != 2 {
			t.Errorf("it is told of %v", res.PeersChanged)
		}
	})
}
