package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateFiles are PEM files.
type certificateFiles struct{ authority, certificate, key string }

// writeCertificates makes an authority and a certificate of it for the
// loopback address, valid for a day, as files below dir.
func writeCertificates(dir string) (files certificateFiles, err error) {
	authority, err := newCertificate(pkix.Name{CommonName: "conformance authority"}, nil)
	if err != nil {
		return files, err
	}
	server, err := newCertificate(pkix.Name{CommonName: "localhost"}, authority)
	if err != nil {
		return files, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(server.key)
	if err != nil {
		return files, fmt.Errorf("encode key: %w", err)
	}
	files = certificateFiles{
		authority:   filepath.Join(dir, "authority.pem"),
		certificate: filepath.Join(dir, "server.pem"),
		key:         filepath.Join(dir, "server.key"),
	}
	return files, errors.Join(
		writePEM(files.authority, "CERTIFICATE", authority.der),
		writePEM(files.certificate, "CERTIFICATE", server.der),
		writePEM(files.key, "PRIVATE KEY", key),
	)
}

// certificate is a certificate with its key.
type certificate struct {
	template *x509.Certificate
	der      []byte
	key      *ecdsa.PrivateKey
}

// newCertificate makes a certificate signed by issuer, or an authority that
// signs itself if issuer is nil.
func newCertificate(name pkix.Name, issuer *certificate) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choose serial number: %w", err)
	}
	c := &certificate{key: key, template: &x509.Certificate{
		SerialNumber:          serial,
		Subject:               name,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true,
	}}
	if issuer == nil {
		issuer = c
		c.template.IsCA = true
		c.template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	} else {
		c.template.KeyUsage = x509.KeyUsageDigitalSignature
		c.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.template.DNSNames = []string{"localhost"}
		c.template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	c.der, err = x509.CreateCertificate(rand.Reader, c.template, issuer.template, &key.PublicKey, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return c, nil
}

// writePEM writes one block to a file that only its owner can read.
func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
