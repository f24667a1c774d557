package devcontrol

import (
	"net/netip"
	"slices"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/opt"
)

const (
	ownerID  tailcfg.UserID = 1 // the person who owns what has no tags
	taggedID tailcfg.UserID = 2 // as on the real thing, tagged nodes belong to nobody in particular
)

// netmap is what one streaming client has been told, so that it is told what is new only.
type netmap struct {
	tailnet *Tailnet
	derp    *tailcfg.DERPMap
	self    tailcfg.NodeID
	told    map[tailcfg.NodeID]uint64 // node → the edition of it that the client has
}

// next returns what the client does not know yet: everything the first time, then the difference, nil if there is none.
// ok is false when the client's own node is no more. changed is closed as soon as there may be more to tell.
func (m *netmap) next() (res *tailcfg.MapResponse, changed <-chan struct{}, ok bool) {
	t := m.tailnet
	t.mu.Lock()
	defer t.mu.Unlock()
	self, ok := t.nodes[m.self]
	if !ok {
		return nil, nil, false
	}
	first := m.told == nil
	if first {
		m.told = map[tailcfg.NodeID]uint64{}
		res = m.everything()
	} else {
		res = &tailcfg.MapResponse{}
	}
	if m.isNews(self) {
		res.Node = t.wireSelf(self)
	}
	peers := m.newPeers()
	if first {
		res.Peers = peers
	} else {
		res.PeersChanged, res.PeersRemoved = peers, m.gone()
	}
	if !first && res.Node == nil && peers == nil && res.PeersRemoved == nil {
		return nil, t.changed, true
	}
	return res, t.changed, true
}

// everything returns the parts of a netmap that do not change.
func (m *netmap) everything() *tailcfg.MapResponse {
	now := time.Now()
	domain := m.tailnet.Domain
	return &tailcfg.MapResponse{
		DERPMap:         m.derp,
		Domain:          domain,
		CollectServices: opt.False,
		PacketFilter:    tailcfg.FilterAllowAll,
		DNSConfig:       &tailcfg.DNSConfig{Proxied: true, Domains: []string{domain}},
		ControlTime:     &now,
		UserProfiles: []tailcfg.UserProfile{
			{ID: ownerID, LoginName: "owner@" + domain, DisplayName: "Owner"},
			{ID: taggedID, LoginName: "tagged-devices", DisplayName: "Tagged Devices"},
		},
	}
}

// isNews reports whether the client has another edition of the node than the current one, and takes note.
func (m *netmap) isNews(n *Node) bool {
	if told, ok := m.told[n.ID]; ok && told == n.edition {
		return false
	}
	m.told[n.ID] = n.edition
	return true
}

func (m *netmap) newPeers() (peers []*tailcfg.Node) {
	for id, n := range m.tailnet.nodes {
		if id != m.self && m.isNews(n) {
			peers = append(peers, m.tailnet.wireNode(n))
		}
	}
	slices.SortFunc(peers, func(a, b *tailcfg.Node) int { return int(a.ID - b.ID) })
	return peers
}

func (m *netmap) gone() (ids []tailcfg.NodeID) {
	for id := range m.told {
		if _, ok := m.tailnet.nodes[id]; !ok {
			ids = append(ids, id)
			delete(m.told, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// wireNode returns a node as its peers see it. Advertised routes are approved.
func (t *Tailnet) wireNode(n *Node) *tailcfg.Node {
	online, lastSeen := n.Online(), n.LastSeen
	w := &tailcfg.Node{
		ID:                n.ID,
		StableID:          n.StableID(),
		Name:              n.Name + "." + t.Domain + ".",
		User:              ownerID,
		Key:               n.Key,
		KeyExpiry:         n.KeyExpiry,
		Machine:           n.Machine,
		DiscoKey:          n.Disco,
		Endpoints:         n.Endpoints,
		HomeDERP:          n.HomeDERP,
		Hostinfo:          n.Hostinfo.View(),
		Created:           n.Created,
		Cap:               n.Version,
		Tags:              n.Tags,
		Online:            &online,
		MachineAuthorized: true,
		Expired:           n.expired(time.Now()),
	}
	if !online {
		w.LastSeen = &lastSeen
	}
	if len(n.Tags) > 0 {
		w.User = taggedID
	}
	for _, a := range n.Addresses {
		w.Addresses = append(w.Addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	w.AllowedIPs = slices.Clone(w.Addresses)
	if n.Hostinfo != nil {
		w.AllowedIPs = append(w.AllowedIPs, n.Hostinfo.RoutableIPs...)
		w.PrimaryRoutes = slices.DeleteFunc(slices.Clone(n.Hostinfo.RoutableIPs), tsaddr.IsExitRoute)
	}
	return w
}

// wireSelf returns a node as it sees itself: with what it may do.
func (t *Tailnet) wireSelf(n *Node) *tailcfg.Node {
	w := t.wireNode(n)
	w.CapMap = tailcfg.NodeCapMap{
		tailcfg.CapabilityAdmin:                           nil,
		tailcfg.CapabilityFileSharing:                     nil,
		tailcfg.CapabilityHTTPS:                           nil,
		tailcfg.CapabilitySSH:                             nil,
		tailcfg.NodeAttrFunnel:                            nil,
		tailcfg.CapabilityFunnelPorts + "?ports=443,8443": nil,
	}
	return w
}
