package object

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// accountCache keeps the derived keys of accounts. There are few accounts on a
// machine; beyond accountCacheMax the cache begins anew.
type accountCache struct {
	mu   sync.Mutex
	keys map[metadata.KeyID]*seal.AccountKeys
}

const accountCacheMax = 1024

func newAccountCache() *accountCache {
	return &accountCache{keys: make(map[metadata.KeyID]*seal.AccountKeys)}
}

// AccountKeys returns the keys derived from the key of an account.
func (e *Engine) AccountKeys(ctx context.Context, a *metadata.Account) (*seal.AccountKeys, error) {
	if e.options.Keys == nil {
		return nil, errors.New("object: account keys without a keyring")
	}
	c := e.accounts
	c.mu.Lock()
	known := c.keys[a.Key]
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	key, err := e.options.Keys.UnwrapAccount(ctx, a.ID, a.Key, a.MasterKey, []byte(a.WrappedKey))
	if err != nil {
		return nil, fmt.Errorf("object: key of account %s: %w", a.ID, err)
	}
	keys := seal.DeriveAccount(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.keys) >= accountCacheMax {
		clear(c.keys)
	}
	c.keys[a.Key] = keys
	return keys, nil
}

// account returns an account by its id.
func (e *Engine) account(ctx context.Context, id metadata.AccountID) (*metadata.Account, error) {
	all, err := e.meta.Accounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("object: accounts: %w", err)
	}
	for i := range all {
		if all[i].ID == id {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("object: no account %s", id)
}

// EnsureAccount returns the first account, and creates one of the given name
// and canonical user id if there is none. The account's record is durable on
// m+1 drives when it returns.
func (e *Engine) EnsureAccount(ctx context.Context, name, canonical string) (*metadata.Account, error) {
	all, err := e.meta.Accounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("object: accounts: %w", err)
	}
	if len(all) > 0 {
		return &all[0], nil
	}
	a := &metadata.Account{Name: name, Canonical: canonical}
	if err := errors.Join(e.random(a.ID[:]), e.random(a.Key[:])); err != nil {
		return nil, err
	}
	if e.options.Keys != nil {
		key, err := seal.NewKey(randomReader{e})
		if err != nil {
			return nil, err
		}
		master, wrapped, err := e.options.Keys.WrapAccount(ctx, a.ID, a.Key, key)
		if err != nil {
			return nil, fmt.Errorf("object: wrap key of account: %w", err)
		}
		a.MasterKey, a.WrappedKey = master, string(wrapped)
	}
	epoch, release, err := e.Epoch()
	if err != nil {
		return nil, err
	}
	defer release()
	rec := metadata.Record{Type: metadata.RecordAccount, Account: a.ID, Epoch: epoch}
	if err := e.putRecord(ctx, &rec, accountRecord(a)); err != nil {
		return nil, err
	}
	cmd := &metadata.Command{Kind: metadata.KindPutAccount, Version: 1, Group: metadata.RootGroup, Epoch: epoch, Account: a}
	if _, err := e.propose(ctx, cmd); err != nil {
		return nil, fmt.Errorf("object: create account: %w", err)
	}
	return a, nil
}

// bucketKeys unwraps the key of a bucket; nil if the bucket has none.
func (e *Engine) bucketKeys(ctx context.Context, row *metadata.Bucket) (*seal.BucketKeys, error) {
	if row.WrappedKey == "" {
		return nil, nil
	}
	owner, err := e.account(ctx, row.Owner)
	if err != nil {
		return nil, err
	}
	account, err := e.AccountKeys(ctx, owner)
	if err != nil {
		return nil, err
	}
	key, err := account.UnwrapBucket(e.bucketBinding(row), []byte(row.WrappedKey))
	if err != nil {
		return nil, fmt.Errorf("object: key of bucket %s: %w", row.ID, err)
	}
	return seal.DeriveBucket(key), nil
}

func (e *Engine) bucketBinding(row *metadata.Bucket) seal.BucketBinding {
	return seal.BucketBinding{Cluster: e.options.Cluster, Account: row.Owner, Bucket: row.ID, Key: row.Key}
}

// newPartKey makes the data key of a part and wraps it. In a bucket without a
// key parts are not sealed.
func (e *Engine) newPartKey(b *bucket, part metadata.PartID) (key seal.Key, wrapped string, err error) {
	if b.keys == nil {
		return seal.Key{}, "", nil
	}
	if key, err = seal.NewKey(randomReader{e}); err != nil {
		return seal.Key{}, "", err
	}
	return key, string(b.keys.WrapPart(e.partBinding(b, part, b.row.Key), key)), nil
}

// partKey unwraps the data key of a part.
func (e *Engine) partKey(b *bucket, p *metadata.Part) (seal.Key, error) {
	if !p.Sealed {
		return seal.Key{}, nil
	}
	if b.keys == nil || p.Key != b.row.Key {
		return seal.Key{}, fmt.Errorf("object: part %s is sealed under another bucket key: %w", p.ID, ErrDamaged)
	}
	key, err := b.keys.UnwrapPart(e.partBinding(b, p.ID, p.Key), []byte(p.WrappedKey))
	if err != nil {
		return seal.Key{}, fmt.Errorf("object: key of part %s: %w: %w", p.ID, ErrDamaged, err)
	}
	return key, nil
}

func (e *Engine) partBinding(b *bucket, part metadata.PartID, key metadata.KeyID) seal.Binding {
	return seal.Binding{Cluster: e.options.Cluster, Bucket: b.row.ID, Part: part, Key: key}
}
