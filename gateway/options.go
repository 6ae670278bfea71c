package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// Options configure a [Server]. Lookup and Owner have no default.
type Options struct {
	// Region of this store. Default "fr-metro".
	Region string
	// StrictRegion refuses signatures whose scope names another region.
	StrictRegion bool
	// Lookup finds the credentials of an access key.
	Lookup sigv4.Lookup
	// Owner is the account that owns every bucket, as replies show it.
	Owner wire.Owner
	// Authorizer decides what a key may do. Default [SignedOnly].
	Authorizer Authorizer

	// Domains are host names under which buckets are reached as
	// bucket.domain, without port. The domains themselves, and every other
	// host, take path-style requests.
	Domains []string
	// PublicURLs are the addresses under which clients know this store where
	// a proxy changes the Host header, such as https://s3.example.org. A
	// signature that does not fit the host received is tried with these.
	PublicURLs []string
	// TrustedProxies are the networks whose X-Forwarded-Host,
	// X-Forwarded-Proto and X-Forwarded-For are believed.
	TrustedProxies []netip.Prefix

	// Encrypted says that objects are encrypted at rest: replies say AES256.
	Encrypted bool
	// StorageClasses are the classes that may be asked for besides STANDARD.
	StorageClasses []string

	// MaxRequests bounds the requests being served; more get 503 SlowDown.
	// Default 1024.
	MaxRequests int
	// IdleTimeout ends a request whose client neither sends nor takes a byte
	// for so long. Default 60 s.
	IdleTimeout time.Duration
	// HeaderTimeout bounds the time for the head of a request. Default 15 s.
	HeaderTimeout time.Duration
	// KeepAlive is how long a connection may be idle between requests.
	// Default 2 min.
	KeepAlive time.Duration

	// Health says for the health pages whether the store can serve. Default:
	// always.
	Health HealthCheck
	// AccessLog takes lines in the format of AWS's server access logs; nil
	// for none. It is written by one goroutine, in large pieces.
	AccessLog io.Writer
	// Log takes the server's own log. Default: discarded.
	Log *slog.Logger
	// Now is the clock for signatures and logs. Default time.Now.
	Now func() time.Time
	// RequestID makes request ids of 16 upper-case hexadecimal digits.
	// Default: random.
	RequestID func() string
	// HostID is the value of x-amz-id-2. Default: random, new at each start.
	HostID string
}

// HealthCheck answers load balancers. A nil error is healthy.
type HealthCheck interface {
	// Ready reports whether requests should be sent here.
	Ready(ctx context.Context) error
	// Writable reports whether the store takes writes; with maintenance,
	// whether it still would with one more drive away.
	Writable(ctx context.Context, maintenance bool) error
}

// alwaysHealthy is the [HealthCheck] of tests and of stores that know no
// better.
type alwaysHealthy struct{}

func (alwaysHealthy) Ready(context.Context) error          { return nil }
func (alwaysHealthy) Writable(context.Context, bool) error { return nil }

// standard is the storage class of every object that names none.
const standard = "STANDARD"

func (o Options) withDefaults() Options {
	o.Region = cmp.Or(o.Region, "fr-metro")
	o.MaxRequests = cmp.Or(o.MaxRequests, 1024)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, 15*time.Second)
	o.KeepAlive = cmp.Or(o.KeepAlive, 2*time.Minute)
	if o.Authorizer == nil {
		o.Authorizer = SignedOnly{}
	}
	if o.Health == nil {
		o.Health = alwaysHealthy{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.RequestID == nil {
		o.RequestID = func() string { return fmt.Sprintf("%016X", mathrand.Uint64()) }
	}
	if o.HostID == "" {
		var b [48]byte
		rand.Read(b[:]) // never fails
		o.HostID = base64.StdEncoding.EncodeToString(b[:])
	}
	return o
}

// Validate reports everything that is wrong with o.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Lookup == nil {
		bad("gateway: no lookup of access keys")
	}
	if o.Owner.ID == "" {
		bad("gateway: no owner")
	}
	if o.MaxRequests < 1 {
		bad("gateway: %d requests at once: need at least 1", o.MaxRequests)
	}
	if o.IdleTimeout < 0 || o.HeaderTimeout < 0 || o.KeepAlive < 0 {
		bad("gateway: negative timeout")
	}
	for _, d := range o.Domains {
		if d == "" || strings.ContainsAny(d, ":/ ") || strings.HasPrefix(d, ".") || strings.ToLower(d) != d {
			bad("gateway: domain %q: want a lower-case host name without port", d)
		}
	}
	for _, s := range o.PublicURLs {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			bad("gateway: public URL %q: want http(s)://host[:port]", s)
		}
	}
	if len(o.PublicURLs) > maxPublicURLs {
		bad("gateway: %d public URLs: at most %d", len(o.PublicURLs), maxPublicURLs)
	}
	return errors.Join(errs...)
}

// maxPublicURLs bounds how often a wrong signature is tried.
const maxPublicURLs = 8
