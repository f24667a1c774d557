package devcontrol

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tailscale.com/tailcfg"
)

const examples = "../../../../examples/acl"

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Each example can be parsed and its own tests pass; an OAuth client with tag:k8s-cni may assign every tag that the example has for pods.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(examples + "/*.hujson")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), `"tests"`) {
			t.Errorf("%s says nothing of itself", file)
		}
		p, err := ParsePolicy(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		tailnet := NewTailnet("tailnet.test", 0)
		tailnet.SetPolicy(p)
		client := OAuthClient{Tags: []string{"tag:k8s-cni"}}
		for tag := range p.tagOwners {
			if tailnet.mayGive(client, []string{tag}) != (tag != "tag:ci") {
				t.Errorf("%s: tag:k8s-cni and %s", file, tag)
			}
			if tag != "tag:k8s-cni" && tailnet.mayGive(OAuthClient{Tags: []string{tag}}, []string{"tag:k8s-cni"}) {
				t.Errorf("%s: %s may give tag:k8s-cni", file, tag)
			}
		}
		if tailnet.mayGive(client, []string{"tag:unheard-of"}) {
			t.Errorf("%s: a tag that is not in it", file)
		}
	}
}

// Anything unknown in a policy file is an error that names it, and is never ignored.
func TestPolicyRefuses(t *testing.T) {
	const tags = `"tagOwners": {"tag:a": ["autogroup:admin"]}, `
	for text, want := range map[string]string{
		`{"acls": [}`: "hujson",
		`{"acl": []}`: `unknown field "acl"`,
		`{"ssh": []}`: `unknown field "ssh"`,
		`{"acls": [{"action": "accept", "users": ["*"]}]}`:                                                                              `unknown field "users"`,
		`{"acls": [], "ACLs": []}`:                                                                                                      "ACLs is there twice",
		`{"acls": [{"action": "deny"}]}`:                                                                                                `"deny", not accept`,
		`{"acls": [{"action": "accept", "proto": "sctp"}]}`:                                                                             `"sctp" is not supported`,
		`{"acls": [{"action": "accept", "src": ["*"], "dst": ["tag:b:80"]}]}`:                                                           `"tag:b" is not defined`,
		`{"acls": [{"action": "accept", "src": ["group:x"], "dst": ["*:80"]}]}`:                                                         `"group:x" is not defined`,
		`{"acls": [{"action": "accept", "src": ["autogroup:self"], "dst": ["*:80"]}]}`:                                                  `"autogroup:self" is not`,
		`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*"]}]}`:                                                                  "no port",
		`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:80-20"]}]}`:                                                            `"80-20" is no port`,
		`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:http"]}]}`:                                                             `"http" is no port`,
		`{"acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:shared:80"]}]}`:                                                "no destination",
		`{"grants": [{"src": ["*"], "dst": ["*"], "app": {}}]}`:                                                                         `unknown field "app"`,
		`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["gre:*"]}]}`:                                                                   `"gre" is not supported`,
		`{"groups": {"family": []}}`:                                                                                                    "group:NAME",
		`{"groups": {"group:a": ["group:b"]}}`:                                                                                          "no user",
		`{"tagOwners": {"a": []}}`:                                                                                                      "tagOwners",
		`{"tagOwners": {"tag:a": ["tag:b"]}}`:                                                                                           `"tag:b" is not defined`,
		`{"hosts": {"a": "b"}}`:                                                                                                         "no address",
		`{` + tags + `"tests": [{"src": "tag:a", "accept": ["tag:a:80"]}]}`:                                                             "expected true",
		`{` + tags + `"tests": [{"src": "tag:x", "accept": ["tag:a:80"]}]}`:                                                             "no tag, user or host",
		`{` + tags + `"tests": [{"src": "tag:a", "deny": ["tag:a:80-90"]}]}`:                                                            "not a node and a port",
		`{` + tags + `"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}], "tests": [{"src": "tag:a", "deny": ["tag:a:80"]}]}`: "expected false",
	} {
		if _, err := ParsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// A policy becomes the packet filter of each node: from the addresses that its sources select, to the node's own ports.
func TestPolicyFilters(t *testing.T) {
	addr := func(n byte) []netip.Addr { return []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, n})} }
	plex := &Node{Addresses: addr(1), Tags: []string{"tag:media"}, Login: "alice@example.com"}
	phone := &Node{Addresses: addr(2), Login: "alice@example.com"}
	friend := &Node{Addresses: addr(3), Login: "carol@elsewhere.org", Foreign: true}
	nas := &Node{Addresses: addr(4), Login: "owner@tailnet.test"}
	all := []*Node{plex, phone, friend, nas}
	ports := func(first, last uint16) []tailcfg.NetPortRange {
		return []tailcfg.NetPortRange{{IP: "100.64.0.1", Ports: tailcfg.PortRange{First: first, Last: last}}}
	}
	const head = `{"groups": {"group:g": ["alice@example.com"]}, "tagOwners": {"tag:media": ["autogroup:admin"]}, "hosts": {"nas": "100.64.0.4"}, `
	for src, want := range map[string][]string{
		"group:g": {"100.64.0.2"}, "alice@example.com": {"100.64.0.2"}, "nas": {"100.64.0.4"}, "100.64.0.0/30": {"100.64.0.1", "100.64.0.2", "100.64.0.3"},
		"autogroup:shared": {"100.64.0.3"}, "autogroup:member": {"100.64.0.2", "100.64.0.4"}, "autogroup:tagged": {"100.64.0.1"}, "tag:media": {"100.64.0.1"},
		"*": {"100.64.0.1", "100.64.0.2", "100.64.0.3", "100.64.0.4"}, "carol@elsewhere.org": {"100.64.0.3"}, "bob@example.com": nil,
	} {
		p := parse(t, head+`"acls": [{"action": "accept", "proto": "udp", "src": ["`+src+`"], "dst": ["tag:media:20-30"]}]}`)
		expected := []tailcfg.FilterRule{}
		if want != nil {
			expected = append(expected, tailcfg.FilterRule{SrcIPs: want, DstPorts: ports(20, 30), IPProto: []int{17}})
		}
		if got := p.filter(plex, all); !reflect.DeepEqual(got, expected) {
			t.Errorf("%s: %v, want %v", src, got, expected)
		}
		if got := p.filter(phone, all); got == nil || len(got) > 0 {
			t.Errorf("%s: to the phone: %v, want none, which is not nil", src, got)
		}
	}
	p := parse(t, head+`"grants": [{"src": ["*"], "dst": ["tag:media"], "ip": ["*", "tcp:443"]}]}`)
	if got := p.filter(plex, []*Node{nas}); len(got) != 2 || !reflect.DeepEqual(got[0].DstPorts, ports(0, 65535)) || got[0].IPProto != nil ||
		!reflect.DeepEqual(got[1].DstPorts, ports(443, 443)) || !reflect.DeepEqual(got[1].IPProto, []int{6}) {
		t.Errorf("grants: %v", got)
	}
}
