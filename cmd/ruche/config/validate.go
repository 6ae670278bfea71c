package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// DefaultDrives is how many drive directories lie in the data directory when
// no drives are named.
const DefaultDrives = 6

// Validate reports everything that is wrong with c, joined. Each problem names
// the setting and what would be right.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Data == "" && len(c.Drives) == 0 {
		bad("data: not set; give a directory, for example --data ./data")
	}
	if _, err := c.StorageScheme(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.validateDrives()...)
	errs = append(errs, c.validateNetwork()...)
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			bad("%s: %q is not one of %s", key, value, strings.Join(allowed, ", "))
		}
	}
	oneOf("encryption", c.Encryption, "on", "off")
	oneOf("on-drive-loss", c.OnDriveLoss, "refuse", "degrade")
	oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("log-format", c.LogFormat, "auto", "text", "json")
	oneOf("metadata-replicas", c.MetadataReplicas, "auto", "1", "3", "5")
	if n, places := c.Replicas(), len(c.DrivePaths())+1; n > places {
		bad("metadata-replicas: %d copies need as many places, and drives and the state directory are %d; add drives or use auto", n, places)
	}
	for _, b := range c.DefaultBuckets {
		if !wire.ValidBucketName(b) {
			bad("default-buckets: %q is not a bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens", b)
		}
	}
	errs = append(errs, c.validateSizes()...)
	if c.Keyring != "" && slices.ContainsFunc(c.DrivePaths(), func(d string) bool { return within(c.Keyring, d) }) {
		bad("keyring: %s lies in a drive directory; a drive that leaves must not carry its keys", c.Keyring)
	}
	if (c.RootUser == "") != (c.RootPassword == "") {
		bad("root-user and root-password: set both or neither")
	}
	if n := len(c.RootUser); c.RootUser != "" && (n < 3 || n > 128 || strings.ContainsAny(c.RootUser, "/=, \t")) {
		bad("root-user: need 3 to 128 characters without space, slash, comma and equals sign")
	}
	if n := len(c.RootPassword); c.RootPassword != "" && (n < 8 || n > 256 || strings.ContainsFunc(c.RootPassword, func(r rune) bool { return r <= ' ' })) {
		bad("root-password: need 8 to 256 characters without spaces")
	}
	return errors.Join(errs...)
}

func (c *Config) validateDrives() []error {
	var errs []error
	seen := make(map[string]bool)
	for _, d := range c.DrivePaths() {
		clean := filepath.Clean(d)
		if seen[clean] {
			errs = append(errs, fmt.Errorf("drives: %s is named twice", clean))
		}
		seen[clean] = true
		if len(c.Drives) > 0 && within(c.StateDir(), clean) {
			errs = append(errs, fmt.Errorf("data: %s lies in the drive directory %s; keep them apart", c.StateDir(), clean))
		}
	}
	return errs
}

func (c *Config) validateNetwork() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, a := range []struct{ key, value string }{{"listen", c.Listen}, {"admin-listen", c.AdminListen}} {
		_, port, err := net.SplitHostPort(a.value)
		if err != nil {
			bad("%s: %q is not host:port, such as 0.0.0.0:9000", a.key, a.value)
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			bad("%s: port %q is not a number up to 65535", a.key, port)
		} else if n != 0 && a.key == "admin-listen" && c.Listen == c.AdminListen {
			bad("admin-listen: %s is also the address of listen; choose another port", a.value)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("tls-cert and tls-key: set both or neither")
	}
	if c.TLSCert != "" && c.InsecureHTTP {
		bad("insecure-http: contradicts tls-cert; drop one of them")
	}
	for _, p := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			bad("trusted-proxies: %q is not a network such as 10.0.0.0/8", p)
		}
	}
	for _, u := range c.PublicURLs {
		if p, err := url.Parse(u); err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Host == "" {
			bad("public-urls: %q is not an address such as https://s3.example.org", u)
		}
	}
	for _, d := range c.Domains {
		if d != strings.ToLower(d) || strings.ContainsAny(d, ":/*") || strings.Trim(d, ".") != d {
			bad("domains: %q is not a domain such as s3.example.org, in lower case and without port", d)
		}
	}
	if c.Region == "" || strings.ContainsAny(c.Region, "/ ,=") {
		bad("region: %q is not the name of a region", c.Region)
	}
	return errs
}

func (c *Config) validateSizes() []error {
	var errs []error
	in := func(key string, v, low, high Size) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("%s: %s is not between %s and %s", key, v, low, high))
		}
	}
	if c.MemoryLimit != 0 {
		in("memory-limit", c.MemoryLimit, 64<<20, 1<<50)
	}
	in("stripe-budget", c.StripeBudget, 8<<20, 1<<50)
	in("inline-bytes", c.InlineBytes, 0, 128<<10)
	if c.Ballast != Auto {
		in("ballast", c.Ballast, 0, 1<<40)
	}
	if c.Reserve != Auto {
		in("reserve", c.Reserve, 1<<20, 1<<40)
	}
	in("preallocate", c.Preallocate, 0, 1<<30)
	in("scrub-rate", c.ScrubRate, 0, 1<<40)
	if c.TrashGrace < 0 {
		errs = append(errs, fmt.Errorf("trash-grace: %v is negative", c.TrashGrace))
	}
	if c.DrainTime < 0 {
		errs = append(errs, fmt.Errorf("drain-time: %v is negative", c.DrainTime))
	}
	return errs
}

// DrivePaths are the directories of the drives: those named, or six below the
// data directory.
func (c *Config) DrivePaths() []string {
	if len(c.Drives) > 0 || c.Data == "" {
		return c.Drives
	}
	paths := make([]string, DefaultDrives)
	for i := range paths {
		paths[i] = filepath.Join(c.Data, "d"+strconv.Itoa(i+1))
	}
	return paths
}

// StorageScheme is the scheme that the settings ask for: the one named, or the
// default for the number of drives.
func (c *Config) StorageScheme() (metadata.Scheme, error) {
	drives := len(c.DrivePaths())
	if c.Scheme == "" {
		return metadata.SchemeFor(drives), nil
	}
	s, err := ParseScheme(c.Scheme)
	if err != nil {
		return s, err
	}
	if s.Total() > drives {
		return s, fmt.Errorf("scheme: %s needs %d drives and there are %d; add drives or use %s", s, s.Total(), drives, metadata.SchemeFor(drives))
	}
	if s.Parity == 0 && drives > 1 {
		return s, fmt.Errorf("scheme: %s would lose everything with one drive; use %s", s, metadata.SchemeFor(drives))
	}
	return s, nil
}

// ParseScheme reads a scheme such as 4+2.
func ParseScheme(text string) (metadata.Scheme, error) {
	data, parity, ok := strings.Cut(text, "+")
	k, err1 := strconv.ParseUint(data, 10, 8)
	m, err2 := strconv.ParseUint(parity, 10, 8)
	if !ok || err1 != nil || err2 != nil {
		return metadata.Scheme{}, fmt.Errorf("scheme: %q is not data+parity, such as 4+2", text)
	}
	if k < 1 || k+m > 32 {
		return metadata.Scheme{}, fmt.Errorf("scheme: %s needs at least 1 data shard and at most 32 shards", text)
	}
	return metadata.NewScheme(int(k), int(m)), nil
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	p, err1 := filepath.Abs(path)
	d, err2 := filepath.Abs(dir)
	if err1 != nil || err2 != nil {
		return false
	}
	rel, err := filepath.Rel(d, p)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
