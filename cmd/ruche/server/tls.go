package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
)

const (
	selfSignedYears   = 10
	selfSignedRenewal = 30 * 24 * time.Hour // renewed at a start that is this near its end
)

// A certificate is a pair of files that is read again when they change. It is
// safe for concurrent use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex // guards the rest
	pair   *tls.Certificate
	seen   contents // what pair was made of
	failed contents // what could not be used the last time
}

// contents are the texts of a certificate file and its key file. Times of
// files would not do: two writes within one tick of the kernel's clock look
// the same.
type contents struct{ cert, key string }

// openCertificate reads a certificate chain and its key.
func openCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.reload(); err != nil {
		return nil, &StartError{BadCertificate, fmt.Sprintf("certificate %s with key %s", certFile, keyFile),
			"give tls-cert a PEM certificate chain and tls-key its unencrypted PEM key", err}
	}
	return c, nil
}

// reload reads the files and makes a pair of them if they changed. A pair that
// does not fit, as in the middle of a renewal, leaves the one before in use.
// The caller holds mu or is alone.
func (c *certificate) reload() error {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return err
	}
	now := contents{string(cert), string(key)}
	if c.pair != nil && (now == c.seen || now == c.failed) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		c.failed = now
		return err
	}
	c.pair, c.seen, c.failed = &pair, now, contents{}
	return nil
}

// get is tls.Config.GetCertificate. It reads the files at every handshake: two
// small files from the page cache cost little beside it.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.pair
	if err := c.reload(); err != nil {
		c.log.Warn("new certificate cannot be used, the one before stays", "file", c.certFile, "err", err)
	} else if c.pair != before {
		c.log.Info("certificate read again", "file", c.certFile, "fingerprint", fingerprint(c.pair.Certificate[0]))
	}
	return c.pair, nil
}

// config is the server side of TLS. HTTP/2 is left out: S3's clients do not
// ask for it, and its windows slow uploads down.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"}}
}

// fingerprint is the SHA-256 of a certificate, as browsers and openssl show it.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	var out []string
	for _, b := range sum {
		out = append(out, strings.ToUpper(hex.EncodeToString([]byte{b})))
	}
	return strings.Join(out, ":")
}

// selfSigned opens the generated certificate below dir, making it if it is not
// there, is near its end, or lacks a name that the settings need.
func selfSigned(dir string, c *config.Config, now time.Time, log *slog.Logger) (*certificate, error) {
	needed, further := certificateNames(c)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if usable(certFile, needed, now) {
		if _, err := readSecretFile(keyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		} else if err == nil {
			return openCertificate(certFile, keyFile, log)
		}
	}
	certPEM, keyPEM, err := makeCertificate(append(needed, further...), now)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = errors.Join(writeFile(keyFile, keyPEM, 0o600), writeFile(certFile, certPEM, 0o644))
	}
	if err != nil {
		return nil, fileError("write certificate to "+dir, err)
	}
	return openCertificate(certFile, keyFile, log)
}

func usable(certFile string, names []string, now time.Time) bool {
	text, err := readFile(certFile)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || now.Add(selfSignedRenewal).After(cert.NotAfter) {
		return false
	}
	for _, name := range names {
		if cert.VerifyHostname(strings.Replace(name, "*", "any", 1)) != nil {
			return false
		}
	}
	return true
}

func makeCertificate(names []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Ruche, self-signed"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(selfSignedYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// certificateNames are the names by which clients may address a server with
// these settings. A generated certificate has to have all of needed; further
// are the addresses of this machine, which come and go.
func certificateNames(c *config.Config) (needed, further []string) {
	needed = []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil && host != "" {
		needed = append(needed, host)
	}
	for _, address := range []string{c.Listen, c.AdminListen} {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		ip, err := netip.ParseAddr(host)
		switch {
		case host != "" && err != nil:
			needed = append(needed, host)
		case host == "" || ip.IsUnspecified():
			further = interfaceAddresses()
		default:
			needed = append(needed, ip.WithZone("").String())
		}
	}
	for _, d := range c.Domains {
		needed = append(needed, d, "*."+d)
	}
	for _, u := range c.PublicURLs {
		if p, err := url.Parse(u); err == nil {
			needed = append(needed, p.Hostname())
		}
	}
	slices.Sort(needed)
	return slices.Compact(needed), further
}

func interfaceAddresses() []string {
	var out []string
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the names above remain
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().String())
		}
	}
	return out
}
