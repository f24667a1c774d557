package devcontrol

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"time"

	"tailscale.com/tailcfg"
)

const regionID = 900 // the ID of our DERP region; numbers from 900 are free for private use

// derpMap returns a map of one region with one relay at addr, and the port of its STUN.
func derpMap(addr netip.AddrPort, stun uint16) *tailcfg.DERPMap {
	node := &tailcfg.DERPNode{
		Name:             "900a",
		RegionID:         regionID,
		HostName:         addr.Addr().String(),
		DERPPort:         int(addr.Port()),
		STUNPort:         int(stun),
		InsecureForTests: true,
	}
	if addr.Addr().Is4() {
		node.IPv4, node.IPv6 = addr.Addr().String(), "none"
	} else {
		node.IPv4, node.IPv6 = "none", addr.Addr().String()
	}
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[tailcfg.DERPRegionID]*tailcfg.DERPRegion{
			regionID: {RegionID: regionID, RegionCode: "dev", RegionName: "Development", Nodes: []*tailcfg.DERPNode{node}},
		},
	}
}

// selfSigned returns a TLS configuration with a self-signed certificate for that address.
func selfSigned(addr netip.Addr) (*tls.Config, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(10, 0, 0),
		IPAddresses:  []net.IP{addr.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, err
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}, nil
}

// eitherListener accepts TLS and plain connections on one port, because clients use only TLS for DERP, but the scheme of the URL for the
// control plane.
type eitherListener struct {
	net.Listener
	tls *tls.Config
}

// Accept does not wait for the client's first byte; the first read decides whether the connection uses TLS.
func (l eitherListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: c, tls: l.tls}, nil
}

type eitherConn struct {
	net.Conn
	tls     *tls.Config
	decided bool
}

const tlsHandshake = 0x16 // the first byte of a TLS record that contains a ClientHello

func (c *eitherConn) Read(p []byte) (int, error) {
	if !c.decided {
		c.decided = true
		peeked := &peekedConn{Conn: c.Conn, r: bufio.NewReader(c.Conn)}
		c.Conn = peeked
		if first, err := peeked.r.Peek(1); err == nil && first[0] == tlsHandshake {
			c.Conn = tls.Server(peeked, c.tls)
		}
	}
	return c.Conn.Read(p)
}

type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
