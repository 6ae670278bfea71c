package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
)

// CredentialsFile is the name of root's credentials in the state directory.
const CredentialsFile = "root-credentials"

// Credentials are an access key and its secret. They never print the secret.
type Credentials struct {
	AccessKey string
	Secret    string
}

// String returns the access key.
func (c Credentials) String() string { return c.AccessKey }

// GoString returns the access key.
func (c Credentials) GoString() string { return c.AccessKey }

// newCredentials makes a pair of the usual lengths: 20 and 40 characters.
func newCredentials() Credentials {
	return Credentials{AccessKey: "RUCHE" + rand.Text()[:15], Secret: rand.Text() + rand.Text()[:14]}
}

// ReadCredentials reads root's credentials from a state directory. The file
// must be readable by its owner only.
func ReadCredentials(dir string) (Credentials, error) {
	name := filepath.Join(dir, CredentialsFile)
	text, err := readSecretFile(name)
	if err != nil {
		return Credentials{}, fileError("read "+name, err)
	}
	var c Credentials
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "RUCHE_ROOT_USER":
			c.AccessKey = value
		case "RUCHE_ROOT_PASSWORD":
			c.Secret = value
		}
	}
	if c.AccessKey == "" || c.Secret == "" {
		return Credentials{}, &StartError{Damaged, name + " does not hold RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD",
			"write both lines NAME=value into it, or delete it and set both in the environment", nil}
	}
	return c, nil
}

// rootCredentials returns the credentials of root: those of the settings, or
// those of the state directory, or at a first start new ones. generated says
// that the owner has not seen them yet.
func rootCredentials(c *config.Config, dir string, first bool) (root Credentials, generated bool, err error) {
	kept, err := ReadCredentials(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return root, false, err
	}
	switch {
	case c.RootUser != "":
		root = Credentials{c.RootUser, c.RootPassword}
	case !missing:
		return kept, first, nil
	case first:
		root, generated = newCredentials(), true
	default:
		return root, false, &StartError{CredentialsMissing, filepath.Join(dir, CredentialsFile) + " is missing",
			"set RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD to new credentials of root and start again", nil}
	}
	if root == kept {
		return root, false, nil
	}
	name := filepath.Join(dir, CredentialsFile)
	text := fmt.Sprintf("RUCHE_ROOT_USER=%s\nRUCHE_ROOT_PASSWORD=%s\n", root.AccessKey, root.Secret)
	return root, generated, fileError("write "+name, writeFile(name, []byte(text), 0o600))
}
