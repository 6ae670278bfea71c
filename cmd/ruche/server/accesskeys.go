package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/metadata"
)

const (
	// maxCachedKeys bounds the secrets kept in memory.
	maxCachedKeys = 4096
	// maxAccessKeys bounds what may be created.
	maxAccessKeys = 100_000
	// commitPatience is how long a command whose outcome is unknown is
	// repeated.
	commitPatience = 30 * time.Second
	commitPause    = 50 * time.Millisecond
)

// keyStore is what access keys need of the metadata.
type keyStore interface {
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)
	AccessKey(ctx context.Context, id string) (*metadata.AccessKey, error)
	AccessKeys(ctx context.Context) ([]metadata.AccessKey, error)
}

// epochSource leases the epoch for a command, and is told when one has changed
// the tables of the root, so that drives have them soon. The engine is one.
type epochSource interface {
	Epoch() (epoch uint64, release func(), err error)
	RootChanged()
}

// accessKeys finds, makes and deletes access keys. Root's is not among those
// stored: it is what the settings or the state directory say. It is safe for
// concurrent use.
type accessKeys struct {
	root    Credentials
	store   keyStore
	epochs  epochSource
	account *metadata.Account
	keys    *seal.AccountKeys

	// mu guards secrets, those of stored keys that were used lately, and
	// changes, which counts creations and deletions: a lookup that began
	// before one must not keep what it found.
	mu      sync.Mutex
	secrets map[string]string
	changes uint64
}

// lookup implements sigv4.Lookup.
func (a *accessKeys) lookup(ctx context.Context, id string) (sigv4.Credentials, error) {
	if id == a.root.AccessKey {
		return sigv4.Credentials{Secret: a.root.Secret}, nil
	}
	a.mu.Lock()
	secret, ok := a.secrets[id]
	changes := a.changes
	a.mu.Unlock()
	if ok {
		return sigv4.Credentials{Secret: secret}, nil
	}
	row, err := a.store.AccessKey(ctx, id)
	if errors.Is(err, metadata.ErrNoSuchAccessKey) || (err == nil && row.Disabled) {
		return sigv4.Credentials{}, sigv4.ErrUnknownKey
	}
	if err != nil {
		return sigv4.Credentials{}, fmt.Errorf("access key: %w", err)
	}
	plain, err := a.keys.OpenSecret(id, []byte(row.SealedSecret))
	if err != nil {
		return sigv4.Credentials{}, fmt.Errorf("secret of access key %s: %w", id, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if changes == a.changes {
		if len(a.secrets) >= maxCachedKeys {
			clear(a.secrets)
		}
		a.secrets[id] = string(plain)
	}
	return sigv4.Credentials{Secret: string(plain)}, nil
}

// forget drops what is cached of a key, before its change is acknowledged.
func (a *accessKeys) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes++
	delete(a.secrets, id)
}

// Keys implements admin.Keys.
func (a *accessKeys) Keys(ctx context.Context) ([]admin.Key, error) {
	rows, err := a.store.AccessKeys(ctx)
	if err != nil {
		return nil, err
	}
	out := []admin.Key{{ID: a.root.AccessKey, Root: true, Description: "root"}}
	for _, r := range rows {
		out = append(out, admin.Key{ID: r.ID, Description: r.Description, Created: time.UnixMicro(int64(r.Order)).UTC()})
	}
	return out, nil
}

// CreateKey implements admin.Keys.
func (a *accessKeys) CreateKey(ctx context.Context, req *admin.CreateKeyRequest) (*admin.Key, error) {
	made := newCredentials()
	if req.ID != "" {
		made.AccessKey = req.ID
	}
	if req.Secret != "" {
		made.Secret = req.Secret
	}
	if err := a.acceptable(made, req.Description); err != nil {
		return nil, err
	}
	rows, err := a.store.AccessKeys(ctx)
	if err != nil {
		return nil, err
	}
	if len(rows) >= maxAccessKeys {
		return nil, &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: fmt.Sprintf("there are %d access keys already", len(rows)), Remedy: "delete those that are not used"}
	}
	sealed, err := a.keys.SealSecret(rand.Reader, made.AccessKey, []byte(made.Secret))
	if err != nil {
		return nil, err
	}
	cmd := &metadata.Command{Kind: metadata.KindPutAccessKey, AccessKey: &metadata.AccessKey{
		ID: made.AccessKey, SealedSecret: string(sealed), Account: a.account.ID, Description: req.Description,
	}}
	result, err := commitRoot(ctx, a.store, a.epochs, cmd)
	a.forget(made.AccessKey)
	if errors.Is(err, metadata.ErrAccessKeyExists) {
		return nil, &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "access key " + made.AccessKey + " exists already"}
	}
	if err != nil {
		return nil, err
	}
	return &admin.Key{ID: made.AccessKey, Secret: made.Secret, Description: req.Description, Created: time.UnixMicro(int64(result.Order)).UTC()}, nil
}

func (a *accessKeys) acceptable(c Credentials, description string) error {
	bad := func(text string) error {
		return &admin.Error{Status: http.StatusBadRequest, Code: admin.CodeBadRequest, Message: text}
	}
	odd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/=,", r) }
	switch {
	case len(c.AccessKey) < 3 || len(c.AccessKey) > 128 || strings.ContainsFunc(c.AccessKey, odd):
		return bad("an access key has 3 to 128 characters without space, slash, comma and equals sign")
	case len(c.Secret) < 8 || len(c.Secret) > 256:
		return bad("a secret has 8 to 256 characters")
	case len(description) > 1024:
		return bad("a description has at most 1,024 bytes")
	case c.AccessKey == a.root.AccessKey:
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "that is the access key of root"}
	}
	return nil
}

// DeleteKey implements admin.Keys.
func (a *accessKeys) DeleteKey(ctx context.Context, id string) error {
	if id == a.root.AccessKey {
		return &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "the access key of root cannot be deleted",
			Remedy: "to change it, start the server with other RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD"}
	}
	cmd := &metadata.Command{Kind: metadata.KindDeleteAccessKey, AccessKey: &metadata.AccessKey{ID: id}}
	_, err := commitRoot(ctx, a.store, a.epochs, cmd)
	a.forget(id)
	if errors.Is(err, metadata.ErrNoSuchAccessKey) {
		return &admin.Error{Status: http.StatusNotFound, Code: admin.CodeNotFound, Message: "there is no access key " + id}
	}
	return err
}

// committer proposes commands.
type committer interface {
	Commit(ctx context.Context, cmd *metadata.Command) (*metadata.Result, error)
}

// commitRoot proposes a command to the root group under an epoch. While the
// outcome is unknown it repeats it, under the same request id.
func commitRoot(ctx context.Context, c committer, epochs epochSource, cmd *metadata.Command) (*metadata.Result, error) {
	epoch, release, err := epochs.Epoch()
	if err != nil {
		return nil, err
	}
	defer release()
	cmd.Epoch, cmd.Group = epoch, metadata.RootGroup
	defer epochs.RootChanged() // whatever the outcome is
	return commit(ctx, c, cmd)
}

// commit proposes a command and repeats it while its outcome is unknown.
func commit(ctx context.Context, c committer, cmd *metadata.Command) (*metadata.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	cmd.Version, cmd.Request = 1, metadata.RequestID(newID())
	for {
		result, err := c.Commit(ctx, cmd)
		if !errors.Is(err, metadata.ErrUnknownOutcome) {
			return result, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(commitPause):
		}
	}
}
