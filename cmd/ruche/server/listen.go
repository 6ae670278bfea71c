package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// Limits of HTTP on the admin listener.
const (
	readHeaderTimeout = 15 * time.Second
	readTimeout       = 30 * time.Second // of a whole call, which is at most 64 KiB
	writeTimeout      = 5 * time.Minute  // a drive is formatted within a call
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
)

// listeners are the bound addresses of a server. Binding comes before anything
// is written, so that a port that is taken changes nothing.
type listeners struct {
	s3, admin       net.Listener
	s3TLS, adminTLS bool
	cert            *certificate // nil without TLS
	generated       bool         // cert was made by us
}

// listen binds both addresses and opens the certificate if one is needed.
func listen(ctx context.Context, c *config.Config, state string, now time.Time, log *slog.Logger) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.s3, err = bind(ctx, "listen", c.Listen); err != nil {
		return nil, err
	}
	if l.admin, err = bind(ctx, "admin-listen", c.AdminListen); err != nil {
		return nil, err
	}
	l.s3TLS = c.TLSCert != "" || (!isLoopback(l.s3.Addr()) && !c.InsecureHTTP)
	l.adminTLS = !isLoopback(l.admin.Addr()) && !c.InsecureHTTP
	switch {
	case !l.s3TLS && !l.adminTLS:
		return l, nil
	case c.TLSCert != "":
		l.cert, err = openCertificate(c.TLSCert, c.TLSKey, log)
	default:
		l.generated = true
		l.cert, err = selfSigned(filepath.Join(state, "tls"), c, now, log)
	}
	return l, err
}

func bind(ctx context.Context, key, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &StartError{PortTaken, fmt.Sprintf("%s: %s is taken by another process", key, address),
			fmt.Sprintf("stop that process (\"ss -ltnp\" names it), or choose another address with --%s; port 0 takes a free one", key), nil}
	case errors.Is(err, fs.ErrPermission):
		return nil, &StartError{AddressUnusable, fmt.Sprintf("%s: %s may not be used by this user", key, address),
			"choose a port above 1023, or grant CAP_NET_BIND_SERVICE", err}
	}
	return nil, &StartError{AddressUnusable, fmt.Sprintf("%s: %s", key, address), "give an address of this machine, such as 127.0.0.1:9000 or 0.0.0.0:9000", err}
}

func (l *listeners) close() {
	for _, one := range []net.Listener{l.s3, l.admin} {
		if one != nil {
			one.Close() // nothing was accepted yet
		}
	}
}

// endpoints are the addresses by which this machine reaches the server, then
// those that the settings say others use.
func (l *listeners) endpoints(c *config.Config) admin.Endpoints {
	e := admin.Endpoints{
		S3:    append([]string{baseURL(l.s3.Addr(), l.s3TLS)}, c.PublicURLs...),
		Admin: []string{baseURL(l.admin.Addr(), l.adminTLS)},
	}
	if l.cert != nil {
		if abs, err := filepath.Abs(l.cert.certFile); err == nil {
			e.Certificate = abs
		}
	}
	return e
}

// baseURL is the address of a listener as a URL. A listener on all addresses
// is reached on the loopback one.
func baseURL(a net.Addr, secure bool) string {
	host, port, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// isLoopback reports whether only this machine reaches a listener.
func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// httpServer returns a server of the admin API with the limits above. That of
// S3 comes from package gateway.
func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &http1,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// serving wraps a listener in TLS if it is to have it.
func (l *listeners) serving(one net.Listener, secure bool) net.Listener {
	if secure {
		return tls.NewListener(one, l.cert.config())
	}
	return one
}
