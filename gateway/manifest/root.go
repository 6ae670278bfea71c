package manifest

import (
	"bytes"
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
)

// Root is the tables of the root group that recovery needs. Buckets are not in
// it: they have records of their own.
type Root struct {
	// Order is that of the newest change that the tables contain; of two
	// records the one of the higher Incarnation, then the higher Order,
	// counts.
	Order          uint64
	CommandVersion uint64 // of the root group; 0 means 1
	Incarnation    metadata.Incarnation
	Accounts       []metadata.Account
	AccessKeys     []metadata.AccessKey
	Drives         metadata.DriveTable
	PGs            metadata.PGTable
}

// Newer reports whether r counts rather than other.
func (r *Root) Newer(other *Root) bool {
	if r.Incarnation.Number != other.Incarnation.Number {
		return r.Incarnation.Number > other.Incarnation.Number
	}
	return r.Order > other.Order
}

// RootKeys seals root tables by a master key. *keyring.Keyring is one. The key
// that seals must be used for nothing else, and be new for every call.
type RootKeys interface {
	// SealBytes seals plain under the current master key and returns that
	// key's id.
	SealBytes(random io.Reader, additional, plain []byte) (by metadata.KeyID, sealed []byte, err error)
	// OpenBytes returns what SealBytes sealed by the given key with the same
	// additional data.
	OpenBytes(by metadata.KeyID, additional, sealed []byte) ([]byte, error)
}

// Fields of the root tables.
const (
	fieldRootOrder       = 1
	fieldRootVersion     = 2
	fieldRootIncarnation = 3
	fieldRootAccount     = 4
	fieldRootAccessKey   = 5
	fieldRootDrives      = 6
	fieldRootPGs         = 7
)

const (
	labelRoot = "ruche 1 root tables"

	maxAccounts   = 1 << 20
	maxAccessKeys = 1 << 20
)

// SealRoot returns the payload of a root record, and the id that the record
// must have, new for every call. keys is nil if the cluster has no keyring: then
// the tables are not sealed. random must be a cryptographic source.
func SealRoot(random io.Reader, keys RootKeys, cluster seal.ClusterID, r *Root) (id metadata.ChunkID, payload []byte, err error) {
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return id, nil, fmt.Errorf("manifest: record id: %w", err)
	}
	body := r.marshal()
	if len(body) > MaxBytes/2 {
		return id, nil, fmt.Errorf("manifest: root tables of %d bytes, at most %d", len(body), MaxBytes/2)
	}
	if keys == nil {
		payload = append([]byte{payloadVersion, formPlain}, cluster[:]...)
		return id, append(payload, body...), nil
	}
	by, sealed, err := keys.SealBytes(random, rootAdditional(cluster, id), body)
	clear(body)
	if err != nil {
		return id, nil, fmt.Errorf("manifest: seal root tables: %w", err)
	}
	payload = append([]byte{payloadVersion, formSealed}, by[:]...)
	return id, append(payload, sealed...), nil
}

// OpenRoot returns the tables of a root record. id is that of the record. The
// error wraps [ErrMalformed], [ErrNewer] or [ErrNoKey], or is that of keys. With
// keys, tables that are not sealed are refused as malformed.
func OpenRoot(keys RootKeys, cluster seal.ClusterID, id metadata.ChunkID, payload []byte) (*Root, error) {
	switch {
	case len(payload) < headBytes || len(payload) > MaxBytes:
		return nil, malformed("root tables of %d bytes", len(payload))
	case payload[0] != payloadVersion || payload[1] > formSealed:
		return nil, fmt.Errorf("%w: root tables of version %d, form %d", ErrNewer, payload[0], payload[1])
	case payload[1] == formPlain && keys != nil:
		return nil, malformed("root tables of an encrypted cluster that are not sealed")
	case payload[1] == formPlain && !bytes.Equal(payload[2:headBytes], cluster[:]):
		return nil, malformed("root tables of another cluster")
	case payload[1] == formPlain:
		return unmarshalRoot(payload[headBytes:])
	}
	by := metadata.KeyID(payload[2:headBytes])
	if keys == nil {
		return nil, fmt.Errorf("%w: master key %s", ErrNoKey, by)
	}
	body, err := keys.OpenBytes(by, rootAdditional(cluster, id), payload[headBytes:])
	if err != nil {
		return nil, fmt.Errorf("manifest: root tables %s: %w", id, err)
	}
	return unmarshalRoot(body)
}

func rootAdditional(cluster seal.ClusterID, id metadata.ChunkID) []byte {
	return bytes.Join([][]byte{[]byte(labelRoot), cluster[:], id[:]}, nil)
}

func (r *Root) marshal() []byte {
	b := appendUint(nil, fieldRootOrder, r.Order)
	b = appendUint(b, fieldRootVersion, r.CommandVersion)
	b = appendBytes(b, fieldRootIncarnation, r.Incarnation.AppendTo(nil))
	for i := range r.Accounts {
		b = appendBytes(b, fieldRootAccount, r.Accounts[i].AppendTo(nil))
	}
	for i := range r.AccessKeys {
		b = appendBytes(b, fieldRootAccessKey, r.AccessKeys[i].AppendTo(nil))
	}
	b = appendBytes(b, fieldRootDrives, r.Drives.AppendTo(nil))
	return appendBytes(b, fieldRootPGs, r.PGs.AppendTo(nil))
}

func unmarshalRoot(b []byte) (*Root, error) {
	r := new(Root)
	err := eachField(b, func(f field) (err error) {
		switch f.num {
		case fieldRootOrder:
			r.Order, err = f.uint(1<<64 - 1)
		case fieldRootVersion:
			r.CommandVersion, err = f.uint(1 << 16)
		case fieldRootIncarnation:
			err = f.into(&r.Incarnation)
		case fieldRootAccount:
			if len(r.Accounts) >= maxAccounts {
				return malformed("more than %d accounts", maxAccounts)
			}
			r.Accounts = append(r.Accounts, metadata.Account{})
			err = f.into(&r.Accounts[len(r.Accounts)-1])
		case fieldRootAccessKey:
			if len(r.AccessKeys) >= maxAccessKeys {
				return malformed("more than %d access keys", maxAccessKeys)
			}
			r.AccessKeys = append(r.AccessKeys, metadata.AccessKey{})
			err = f.into(&r.AccessKeys[len(r.AccessKeys)-1])
		case fieldRootDrives:
			err = f.into(&r.Drives)
		case fieldRootPGs:
			err = f.into(&r.PGs)
		default:
			err = f.unknown()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}
