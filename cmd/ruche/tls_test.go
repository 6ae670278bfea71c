package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writePair writes a self-signed certificate for localhost, and its key.
func writePair(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// shown returns the certificate that an endpoint shows.
func shown(t *testing.T, endpoint string, version uint16) (*x509.Certificate, error) {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(endpoint, "https://"), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func TestCertificateIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePair(t, certFile, keyFile, "first")
	s := start(t, filepath.Join(dir, "data"), options{args: []string{"--tls-cert", certFile, "--tls-key", keyFile}})
	endpoint := s.endpoints().S3[0]
	if !strings.HasPrefix(endpoint, "https://") || !strings.HasPrefix(s.endpoints().Admin[0], "http://") {
		t.Errorf("endpoints %+v", s.endpoints())
	}
	name := func() string {
		t.Helper()
		cert, err := shown(t, endpoint, tls.VersionTLS13)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Errorf("certificate %s", got)
	}
	writePair(t, certFile, keyFile, "second")
	if got := name(); got != "second" {
		t.Errorf("after a change, certificate %s", got)
	}
	// In the middle of a renewal the files do not fit: the pair before stays.
	writePair(t, certFile, filepath.Join(dir, "other"), "third")
	if got := name(); got != "second" {
		t.Errorf("with files that do not fit, certificate %s", got)
	}
	if err := os.Rename(filepath.Join(dir, "other"), keyFile); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "third" {
		t.Errorf("after the end of the renewal, certificate %s", got)
	}
	if _, err := shown(t, endpoint, tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	s.ok("status")
}

func TestCertificateFilesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePair(t, certFile, filepath.Join(dir, "another.pem"), "x")
	writePair(t, filepath.Join(dir, "another-cert.pem"), keyFile, "y")
	s := launch(t, filepath.Join(dir, "data"), options{args: []string{"--tls-cert", certFile, "--tls-key", keyFile}})
	if code := s.wait(); code != exitFailure || !strings.Contains(s.err.String(), "remedy:") || !strings.Contains(s.err.String(), certFile) {
		t.Errorf("exit code %d:\n%s", code, s.err)
	}
}

// elsewhere is an address of this machine that is not loopback to the eye of
// the server.
const elsewhere = "0.0.0.0:0"

func TestOtherAddressesGetAGeneratedCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"--listen", elsewhere, "--admin-listen", elsewhere, "--domains", "s3.example.org"}
	s := start(t, dir, options{args: args})
	e := s.endpoints()
	if !strings.HasPrefix(e.S3[0], "https://127.0.0.1:") || !strings.HasPrefix(e.Admin[0], "https://127.0.0.1:") || e.Certificate == "" {
		t.Errorf("endpoints %+v", e)
	}
	cert, err := shown(t, e.S3[0], tls.VersionTLS12)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "s3.example.org", "bucket.s3.example.org"} {
		if net.ParseIP(name) != nil && strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
		if err := cert.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(s.out.String(), "AWS_CA_BUNDLE="+e.Certificate) || strings.Count(s.out.String(), ":") < 31 {
		t.Errorf("fingerprint or trust is not printed:\n%s", s.out)
	}
	// The file is what a client has to trust, and the command line does.
	pemText, err := os.ReadFile(e.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pemText)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	reply, err := client.Get(e.S3[0] + "/health/ready")
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	s.ok("status")
	// Metrics are for nobody without a token there.
	reply, err = client.Get(e.Admin[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusUnauthorized {
		t.Errorf("metrics: %s", reply.Status)
	}
	if got := mode(t, filepath.Join(dir, "tls", "key.pem")); got != 0o600 {
		t.Errorf("mode of the key is %o", got)
	}
	s.end()

	s = start(t, dir, options{args: args})
	again, err := shown(t, s.endpoints().S3[0], tls.VersionTLS13)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Equal(cert) {
		t.Error("a second start has made another certificate")
	}
	s.end()
	// A name that was not there before needs a new one.
	s = start(t, dir, options{args: append(args, "--public-urls", "https://objects.example.org")})
	renewed, err := shown(t, s.endpoints().S3[0], tls.VersionTLS13)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.VerifyHostname("objects.example.org") != nil {
		t.Error("the certificate lacks the new name")
	}
}

func TestInsecureHTTPMustBeAskedFor(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--listen", elsewhere, "--insecure-http"}})
	if got := s.endpoints().S3[0]; !strings.HasPrefix(got, "http://") {
		t.Errorf("endpoint %s", got)
	}
	s.want(200, "GET", "/", "")
}
