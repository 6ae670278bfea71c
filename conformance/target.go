package conformance

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// DefaultRegion is the region that a server has unless configured otherwise.
const DefaultRegion = "fr-metro"

// ErrNoTarget means that the environment names neither an endpoint nor a
// server binary.
var ErrNoTarget = errors.New("neither S3_ENDPOINT nor RUCHE_BIN is set")

// A Target is an S3 endpoint to be tested.
type Target struct {
	Name      string // for subtests: "http", "https"
	Endpoint  string // base address, without a slash at the end
	AccessKey string
	SecretKey string
	Region    string
	CAFile    string // PEM file of authorities to trust; empty: the system's
	Domain    string // domain of virtual-host style requests; empty: unknown
}

// Secure reports whether the target is reached over TLS.
func (t Target) Secure() bool { return strings.HasPrefix(t.Endpoint, "https://") }

// Host is the host and port of the endpoint.
func (t Target) Host() string {
	_, host, _ := strings.Cut(t.Endpoint, "://")
	return host
}

// TLS returns the client configuration that trusts the target's authority.
func (t Target) TLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", t.CAFile)
	}
	return config, nil
}

// Transport returns an HTTP transport for the target. It never asks for
// compression and follows no proxy, so that what is sent is what was written.
func (t Target) Transport() (*http.Transport, error) {
	config, err := t.TLS()
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		TLSClientConfig:       config,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ExpectContinueTimeout: 10 * time.Second,
	}, nil
}

// fromEnvironment returns the endpoint that the environment names, if any.
func fromEnvironment() (Target, bool) {
	endpoint := strings.TrimRight(os.Getenv("S3_ENDPOINT"), "/")
	if endpoint == "" {
		return Target{}, false
	}
	scheme, _, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, endpoint = "http", "http://"+endpoint
	}
	return Target{
		Name:      scheme,
		Endpoint:  endpoint,
		AccessKey: os.Getenv("S3_ACCESS_KEY"),
		SecretKey: os.Getenv("S3_SECRET_KEY"),
		Region:    cmp.Or(os.Getenv("S3_REGION"), DefaultRegion),
		CAFile:    os.Getenv("S3_CA_FILE"),
		Domain:    os.Getenv("S3_DOMAIN"),
	}, true
}

// Required reports whether a missing endpoint or client is a failure rather
// than a reason to skip.
func Required() bool { return os.Getenv("RUCHE_REQUIRE") == "1" }

// Targets returns the endpoints to test, plain HTTP before TLS, starting
// servers below dir if the environment names a binary instead of an endpoint.
// It returns [ErrNoTarget] if it names neither. The function stop ends what was
// started and reports a server that did not end well; if the tests failed, it
// also prints the end of each server's log to the standard error. It is never
// nil.
func Targets(dir string) (targets []Target, stop func(failed bool) error, err error) {
	none := func(bool) error { return nil }
	if t, ok := fromEnvironment(); ok {
		return []Target{t}, none, nil
	}
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		return nil, none, ErrNoTarget
	}
	var servers []*Server
	stop = func(failed bool) error {
		var errs []error
		for _, s := range servers {
			errs = append(errs, s.Stop())
			if failed {
				fmt.Fprintf(os.Stderr, "the end of the log of server %s:\n%s\n", s.Target.Name, s.tail())
			}
		}
		return errors.Join(errs...)
	}
	for _, secure := range []bool{false, true} {
		s, err := Start(bin, dir, secure)
		if err != nil {
			return nil, none, errors.Join(err, stop(false))
		}
		servers = append(servers, s)
		targets = append(targets, s.Target)
	}
	return targets, stop, nil
}
