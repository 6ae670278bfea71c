package gateway

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// resolveProxy finds out how the client addressed us. What a proxy says about
// that counts only if the proxy is one of those that are trusted.
func (s *Server) resolveProxy(c *call) {
	c.host, c.https = c.r.Host, connectionState(c.r) != nil
	if !s.fromProxy(c.r) {
		return
	}
	if host := firstOf(c.r.Header.Get("X-Forwarded-Host")); host != "" {
		c.host = host
	}
	if proto := firstOf(c.r.Header.Get("X-Forwarded-Proto")); proto != "" {
		c.https = strings.EqualFold(proto, "https")
	}
}

// fromProxy reports whether the peer is a trusted proxy.
func (s *Server) fromProxy(r *http.Request) bool {
	return len(s.opts.TrustedProxies) > 0 && s.trusted(hostOf(r.RemoteAddr))
}

func (s *Server) trusted(addr string) bool {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	for _, p := range s.opts.TrustedProxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// clientAddr is the address of the client: behind trusted proxies the last
// address of X-Forwarded-For that is not one of theirs.
func (s *Server) clientAddr(r *http.Request) string {
	addr := hostOf(r.RemoteAddr)
	if !s.fromProxy(r) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop := strings.TrimSpace(hops[i])
		if _, err := netip.ParseAddr(hop); err != nil {
			break
		}
		addr = hop
		if !s.trusted(hop) {
			break
		}
	}
	return addr
}

func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(first)
}

// location is the URL of the object of a call, as the client sees us.
func (c *call) location() string {
	scheme := "http://"
	if c.https {
		scheme = "https://"
	}
	path := "/" + c.bucket
	if c.virtual {
		path = ""
	}
	return scheme + c.host + path + "/" + wire.URLEncode(c.key)
}
