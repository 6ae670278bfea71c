package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/cmd/ruche/server"
	"github.com/ruche-storage/ruche/gateway/admin"
)

// adminFlags adds the flags by which a command finds the server.
func (a *app) adminFlags(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&a.admin, "admin", "", "address of the admin API, such as http://127.0.0.1:9001 [RUCHE_ADMIN]")
	c.Flags().StringVar(&a.data, "data", "", "state directory of the server (default ./data, then /var/lib/ruche) [RUCHE_DATA]")
	return c
}

// client finds the server and the credentials to sign with. The address is
// --admin, RUCHE_ADMIN, or what the server wrote into its state directory; the
// credentials are RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD (or the files named
// by their _FILE forms), or those in the state directory.
func (a *app) client() (*admin.Client, error) {
	settings, err := config.Load(config.Source{File: a.file(), Environ: a.environ})
	if err != nil {
		return nil, &usageError{err}
	}
	dir := a.stateDir(settings)
	base := a.admin
	if base == "" {
		base = a.getenv("RUCHE_ADMIN")
	}
	var endpoints admin.Endpoints
	if dir != "" {
		if endpoints, err = readEndpoints(dir); err != nil {
			return nil, err
		}
	}
	if base == "" {
		if len(endpoints.Admin) == 0 {
			looked := "./data or " + config.DefaultState
			if dir != "" {
				looked = dir
			}
			return nil, fmt.Errorf("no server found: there is no endpoints.json in %s; name the state directory with --data or the server with --admin", looked)
		}
		base = endpoints.Admin[0]
	}
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	user, password := settings.RootUser, settings.RootPassword
	if user == "" || password == "" {
		if dir == "" {
			return nil, errors.New("no credentials: set RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD, or name the state directory with --data")
		}
		root, err := server.ReadCredentials(dir)
		if err != nil {
			return nil, fmt.Errorf("no credentials: set RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD, or run as the user of the server: %w", err)
		}
		user, password = root.AccessKey, root.Secret
	}
	transport := &http.Transport{ResponseHeaderTimeout: 2 * time.Minute, TLSClientConfig: pinned(endpoints.Certificate)}
	return admin.NewClient(base, user, password, transport, a.now), nil
}

// file is the configuration file that was named, if any.
func (a *app) file() string {
	if a.configFile != "" {
		return a.configFile
	}
	return a.getenv("RUCHE_CONFIG")
}

// stateDir is the directory of the server to talk to: the one named, or the
// first usual one where a server has been. Empty if there is none.
func (a *app) stateDir(settings *config.Config) string {
	if a.data != "" {
		return a.data
	}
	if dir := settings.StateDir(); dir != "" {
		return dir
	}
	for _, dir := range []string{"data", config.DefaultState} {
		if _, err := os.Stat(filepath.Join(dir, "endpoints.json")); err == nil {
			return dir
		}
	}
	return ""
}

func readEndpoints(dir string) (e admin.Endpoints, err error) {
	name := filepath.Join(dir, "endpoints.json")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil // the server may be named otherwise
	}
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil {
		return e, fmt.Errorf("%s: %w; start the server again to have it written anew", name, err)
	}
	return e, nil
}

// pinned trusts, besides certificates that verify as usual, the very
// certificate that the server on this machine uses: its name need not be
// localhost. The file is read at each connection, as the server does.
func pinned(file string) *tls.Config {
	if file == "" {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			if text, err := os.ReadFile(file); err == nil {
				if block, _ := pem.Decode(text); block != nil && bytes.Equal(block.Bytes, leaf.Raw) {
					return nil
				}
			}
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := leaf.Verify(x509.VerifyOptions{DNSName: s.ServerName, Intermediates: between})
			return err
		},
	}
}
