package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica/backup"
)

// small is a backup of a few rows.
func small(t testing.TB, keys *keyring.Keyring) []byte {
	t.Helper()
	l := open(t, vfs.NewMem(), "meta")
	prepare(t, l, 3)
	put(t, l, 3, "a", "hello")
	b, _ := write(t, l, keys)
	return b
}

// TestBadFiles gives Verify and Restore files that are not what was written.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	for _, keys := range []*keyring.Keyring{nil, ring(t, 1)} {
		t.Run(fmt.Sprint("sealed ", keys != nil), func(t *testing.T) {
			t.Parallel()
			good := small(t, keys)
			for n := 0; n < len(good); n += 1 + n/200 {
				want := backup.ErrTruncated
				if n < 16 {
					want = backup.ErrNoBackup
				}
				refused(t, fmt.Sprintf("cut to %d bytes", n), good[:n], keys, want)
			}
			for n := 0; n < len(good); n += 1 + n/200 {
				b := bytes.Clone(good)
				b[n] ^= 0x10
				if _, _, err := backup.Verify(t.Context(), bytes.NewReader(b), keys); err == nil {
					t.Errorf("byte %d changed: it was taken", n)
				}
				if n%50 == 0 {
					refused(t, fmt.Sprintf("byte %d changed", n), b, keys, nil)
				}
			}
			for name, c := range map[string]struct {
				b    []byte
				want error
			}{
				"empty":           {nil, backup.ErrNoBackup},
				"some text":       {[]byte("this is no backup, it is a text"), backup.ErrNoBackup},
				"a byte too many": {append(bytes.Clone(good), 0), backup.ErrDamaged},
				"of a later format": {func() []byte {
					b := bytes.Clone(good)
					b[8] = 2
					return b
				}(), backup.ErrNewer},
				"two of them": {append(bytes.Clone(good), good...), backup.ErrDamaged},
			} {
				refused(t, name, c.b, keys, c.want)
			}
		})
	}
}

func refused(t *testing.T, name string, b []byte, keys *keyring.Keyring, want error) {
	t.Helper()
	if _, _, err := backup.Verify(t.Context(), bytes.NewReader(b), keys); err == nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: Verify = %v, want %v", name, err, want)
	}
	fs := vfs.NewMem()
	parent(t, fs)
	if _, err := backup.Restore(t.Context(), bytes.NewReader(b), restoring(fs, keys)); err == nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: Restore = %v, want %v", name, err, want)
	}
	absent(t, fs)
}

// TestWrongPlace restores with the wrong keys, the wrong cluster and where
// there is something.
func TestWrongPlace(t *testing.T) {
	t.Parallel()
	keys := ring(t, 1)
	later, err := keys.Rotate(source(9), start)
	if err != nil {
		t.Fatal(err)
	}
	b := small(t, keys)
	info, err := backup.Inspect(bytes.NewReader(b))
	if err != nil || !info.Sealed || info.Cluster != cluster {
		t.Errorf("Inspect = %+v, %v", info, err)
	}
	for name, c := range map[string]struct {
		change func(*backup.RestoreOptions)
		want   error
	}{
		"a later keyring":           {func(o *backup.RestoreOptions) { o.Keys = later }, nil},
		"an empty directory":        {func(o *backup.RestoreOptions) { _ = o.FS.MkdirAll(o.Dir, 0o700) }, nil},
		"no keyring":                {func(o *backup.RestoreOptions) { o.Keys = nil }, backup.ErrKeys},
		"another keyring":           {func(o *backup.RestoreOptions) { o.Keys = ring(t, 2) }, backup.ErrKeys},
		"another cluster":           {func(o *backup.RestoreOptions) { o.Cluster = [16]byte{1} }, backup.ErrCluster},
		"leftovers of another time": {func(o *backup.RestoreOptions) { _ = o.FS.MkdirAll(o.Dir+".new/snap/x", 0o700) }, nil},
	} {
		fs := vfs.NewMem()
		parent(t, fs)
		o := restoring(fs, keys)
		c.change(&o)
		_, err := backup.Restore(t.Context(), bytes.NewReader(b), o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Restore = %v, want %v", name, err, c.want)
		}
		if c.want != nil {
			absent(t, fs)
			continue
		}
		if _, err := backup.Restore(t.Context(), bytes.NewReader(b), o); !errors.Is(err, backup.ErrExists) {
			t.Errorf("%s: Restore over it = %v", name, err)
		}
		if got := body(t, open(t, fs, "state/meta"), 3, "a"); got != "hello" {
			t.Errorf("%s: the object is %q", name, got)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the operator left"))
	fs := vfs.NewMem()
	parent(t, fs)
	if _, err := backup.Restore(ctx, bytes.NewReader(b), restoring(fs, keys)); !errors.Is(err, context.Cause(ctx)) {
		t.Errorf("Restore = %v", err)
	}
	absent(t, fs)
}
