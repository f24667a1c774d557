package devcontrol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

// Policy is a tailnet policy file, which defines which nodes may reach each other. It supports the sections that the examples of
// docs/acl.md use, with the names of Tailscale's reference (tailscale.com/kb/1337): groups, tagOwners, hosts, acls, grants of ports, tests.
// Anything else in a file is an error, because a rule that is silently ignored would seem to apply.
type Policy struct {
	groups    map[string][]string
	tagOwners map[string][]string
	hosts     map[string]netip.Prefix
	rules     []policyRule
}

// policyRule lets nodes that a selector of src selects open connections to nodes that a selector of dst selects.
type policyRule struct {
	src, dst []string
	ports    []tailcfg.PortRange
	protos   []int // none: TCP, UDP and ICMP
}

type policyFile struct {
	Groups    map[string][]string
	TagOwners map[string][]string
	Hosts     map[string]string
	ACLs      []struct {
		Action, Proto string
		Src, Dst      []string
	}
	Grants []struct{ Src, Dst, IP []string }
	Tests  []policyTest
}

// policyTest is a test in a policy file: what a source can reach, and what it cannot.
type policyTest struct {
	Src, Proto   string
	Accept, Deny []string
}

var protocols = map[string]int{"icmp": 1, "tcp": 6, "udp": 17}

// ParsePolicy reads a policy file and runs its tests.
func ParsePolicy(text []byte) (*Policy, error) {
	file, err := readPolicy(text)
	if err != nil {
		return nil, err
	}
	p := &Policy{groups: file.Groups, tagOwners: file.TagOwners, hosts: map[string]netip.Prefix{}}
	if err := errors.Join(p.checkNames(file), p.addACLs(file), p.addGrants(file)); err != nil {
		return nil, err
	}
	for i, test := range file.Tests {
		if err := p.run(test); err != nil {
			return nil, fmt.Errorf("tests[%d]: %w", i, err)
		}
	}
	return p, nil
}

func readPolicy(text []byte) (file policyFile, err error) {
	value, err := hujson.Parse(text)
	if err != nil {
		return file, err
	}
	if name := repeated(value); name != "" {
		return file, fmt.Errorf("%s is there twice", name)
	}
	value.Standardize()
	decoder := json.NewDecoder(bytes.NewReader(value.Pack()))
	decoder.DisallowUnknownFields()
	return file, decoder.Decode(&file)
}

// repeated returns a name that an object contains twice, because JSON would silently ignore the first value.
func repeated(value hujson.Value) string {
	for v := range value.All() {
		object, ok := v.Value.(*hujson.Object)
		if !ok {
			continue
		}
		seen := map[string]bool{}
		for _, member := range object.Members {
			name := member.Name.Value.(hujson.Literal).String()
			if seen[strings.ToLower(name)] {
				return name
			}
			seen[strings.ToLower(name)] = true
		}
	}
	return ""
}

func (p *Policy) checkNames(file policyFile) error {
	for group, members := range file.Groups {
		if !strings.HasPrefix(group, "group:") {
			return fmt.Errorf("groups: %q is not group:NAME", group)
		}
		for _, member := range members {
			if !isUser(member) {
				return fmt.Errorf("groups: %s: %q is no user", group, member)
			}
		}
	}
	for tag, owners := range file.TagOwners {
		if err := tailcfg.CheckTag(tag); err != nil {
			return fmt.Errorf("tagOwners: %w", err)
		}
		for _, owner := range owners {
			if !slices.Contains([]string{"autogroup:admin", "autogroup:owner"}, owner) && p.check(owner) != nil {
				return fmt.Errorf("tagOwners: %s: %w", tag, p.check(owner))
			}
		}
	}
	for name, at := range file.Hosts {
		prefix, ok := parsePrefix(at)
		if !ok || strings.ContainsAny(name, ":@*") {
			return fmt.Errorf("hosts: %q: %q is no address or network", name, at)
		}
		p.hosts[name] = prefix
	}
	return nil
}

func (p *Policy) addACLs(file policyFile) error {
	for i, acl := range file.ACLs {
		if acl.Action != "accept" {
			return fmt.Errorf("acls[%d]: the action is %q, not accept", i, acl.Action)
		}
		protos, err := parseProtocol(acl.Proto)
		if err != nil {
			return fmt.Errorf("acls[%d]: %w", i, err)
		}
		for _, dst := range acl.Dst {
			selector, ports, err := splitPorts(dst)
			if err == nil {
				err = p.add(policyRule{acl.Src, []string{selector}, ports, protos})
			}
			if err != nil {
				return fmt.Errorf("acls[%d]: %q: %w", i, dst, err)
			}
		}
	}
	return nil
}

func (p *Policy) addGrants(file policyFile) error {
	for i, grant := range file.Grants {
		for _, ip := range grant.IP {
			protocol, ports, there := strings.Cut(ip, ":")
			if !there {
				protocol, ports = "", ip
			}
			protos, err := parseProtocol(protocol)
			ranges, err2 := parsePorts(ports)
			if err = errors.Join(err, err2); err == nil {
				err = p.add(policyRule{grant.Src, grant.Dst, ranges, protos})
			}
			if err != nil {
				return fmt.Errorf("grants[%d]: %q: %w", i, ip, err)
			}
		}
	}
	return nil
}

func (p *Policy) add(rule policyRule) error {
	for _, selector := range slices.Concat(rule.src, rule.dst) {
		if err := p.check(selector); err != nil {
			return err
		}
	}
	if slices.Contains(rule.dst, "autogroup:shared") {
		return errors.New("autogroup:shared is no destination")
	}
	p.rules = append(p.rules, rule)
	return nil
}

// check returns an error if a selector of nodes is invalid.
func (p *Policy) check(selector string) error {
	_, isGroup := p.groups[selector]
	_, isTag := p.tagOwners[selector]
	_, isHost := p.hosts[selector]
	_, isPrefix := parsePrefix(selector)
	isKnown := slices.Contains([]string{"*", "autogroup:member", "autogroup:tagged", "autogroup:shared"}, selector)
	if isGroup || isTag || isHost || isPrefix || isKnown || isUser(selector) {
		return nil
	}
	return fmt.Errorf("%q is not defined, or not supported here", selector)
}

// run returns an error if a test fails.
func (p *Policy) run(test policyTest) error {
	protos, err := parseProtocol(test.Proto)
	if err != nil {
		return err
	}
	if protos == nil {
		protos = []int{protocols["tcp"]}
	}
	src, err := p.example(test.Src)
	if err != nil {
		return err
	}
	for _, expected := range []bool{true, false} {
		for _, target := range map[bool][]string{true: test.Accept, false: test.Deny}[expected] {
			selector, ports, err := splitPorts(target)
			if err != nil || len(ports) != 1 || ports[0].First != ports[0].Last {
				return fmt.Errorf("%q is not a node and a port", target)
			}
			dst, err := p.example(selector)
			if err != nil {
				return err
			}
			if p.allows(src, dst, ports[0].First, protos[0]) != expected {
				return fmt.Errorf("from %s to %s: expected %v", test.Src, target, expected)
			}
		}
	}
	return nil
}

// example returns a node that has only the property that a test names.
func (p *Policy) example(name string) (*Node, error) {
	if _, isTag := p.tagOwners[name]; isTag {
		return &Node{Tags: []string{name}}, nil
	}
	if host, ok := p.hosts[name]; ok && host.IsSingleIP() {
		return &Node{Login: "nobody", Addresses: []netip.Addr{host.Addr()}}, nil
	}
	if isUser(name) {
		return &Node{Login: name}, nil
	}
	return nil, fmt.Errorf("%q is no tag, user or host", name)
}

func (p *Policy) allows(src, dst *Node, port uint16, proto int) bool {
	return slices.ContainsFunc(p.rules, func(r policyRule) bool {
		return p.selects(r.src, src) && p.selects(r.dst, dst) && (r.protos == nil || slices.Contains(r.protos, proto)) &&
			slices.ContainsFunc(r.ports, func(ports tailcfg.PortRange) bool { return ports.Contains(port) })
	})
}

// connects reports whether a rule lets src reach dst, on any port.
func (p *Policy) connects(src, dst *Node) bool {
	return slices.ContainsFunc(p.rules, func(r policyRule) bool { return p.selects(r.src, src) && p.selects(r.dst, dst) })
}

// selects reports whether one of the selectors matches the node.
func (p *Policy) selects(selectors []string, n *Node) bool {
	return slices.ContainsFunc(selectors, func(selector string) bool {
		prefix, isPrefix := parsePrefix(selector)
		if host, ok := p.hosts[selector]; ok {
			prefix, isPrefix = host, true
		}
		tagged := len(n.Tags) > 0
		switch {
		case selector == "*":
			return true
		case isPrefix:
			return slices.ContainsFunc(n.Addresses, prefix.Contains)
		case selector == "autogroup:shared":
			return n.Foreign
		case selector == "autogroup:tagged":
			return tagged && !n.Foreign
		case selector == "autogroup:member":
			return !tagged && !n.Foreign
		case strings.HasPrefix(selector, "tag:"):
			return !n.Foreign && slices.Contains(n.Tags, selector)
		case strings.HasPrefix(selector, "group:"):
			return !tagged && slices.Contains(p.groups[selector], n.Login)
		}
		return !tagged && n.Login == selector
	})
}

// filter returns the rules for packets from others to a node. It is never nil, because nil would permit everything.
func (p *Policy) filter(self *Node, others []*Node) []tailcfg.FilterRule {
	filter := []tailcfg.FilterRule{}
	for _, rule := range p.rules {
		if !p.selects(rule.dst, self) {
			continue
		}
		out := tailcfg.FilterRule{IPProto: rule.protos}
		for _, n := range others {
			if p.selects(rule.src, n) {
				out.SrcIPs = append(out.SrcIPs, texts(n.Addresses)...)
			}
		}
		for _, at := range texts(self.Addresses) {
			for _, ports := range rule.ports {
				out.DstPorts = append(out.DstPorts, tailcfg.NetPortRange{IP: at, Ports: ports})
			}
		}
		if out.SrcIPs != nil {
			filter = append(filter, out)
		}
	}
	return filter
}

func texts(addresses []netip.Addr) (all []string) {
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

func isUser(name string) bool {
	local, domain, ok := strings.Cut(name, "@")
	return ok && local != "" && strings.Contains(domain, ".")
}

func parsePrefix(text string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix, err == nil
}

func parseProtocol(name string) ([]int, error) {
	if name == "" {
		return nil, nil
	}
	number, ok := protocols[name]
	if !ok {
		return nil, fmt.Errorf("the protocol %q is not supported here", name)
	}
	return []int{number}, nil
}

// splitPorts splits tag:web:80,443 into selector and ports. An IPv6 address must be given by its name in hosts.
func splitPorts(text string) (selector string, ports []tailcfg.PortRange, err error) {
	at := strings.LastIndex(text, ":")
	if at < 0 {
		return "", nil, errors.New("it has no port")
	}
	ports, err = parsePorts(text[at+1:])
	return text[:at], ports, err
}

func parsePorts(text string) (ranges []tailcfg.PortRange, err error) {
	if text == "*" {
		return []tailcfg.PortRange{tailcfg.PortRangeAny}, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("%q is no port, nor a range of them", part)
		}
		ranges = append(ranges, tailcfg.PortRange{First: uint16(first), Last: uint16(last)})
	}
	return ranges, nil
}
