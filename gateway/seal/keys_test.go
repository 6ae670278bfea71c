package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/ruche-storage/ruche/metadata"
)

// counting is a pinned source in the place of a random one.
type counting struct{ n byte }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		c.n++
		p[i] = c.n
	}
	return len(p), nil
}

func testBinding() Binding {
	var b Binding
	for i := range 16 {
		b.Cluster[i], b.Bucket[i], b.Part[i], b.Key[i] = byte(i), byte(i+16), byte(i+32), byte(i+48)
	}
	return b
}

func testBucketBinding() BucketBinding {
	b := testBinding()
	return BucketBinding{Cluster: b.Cluster, Account: metadata.AccountID(b.Part), Bucket: b.Bucket, Key: b.Key}
}

// TestGolden pins segments, derived keys, wrapped keys, boxes and MACs.
func TestGolden(t *testing.T) {
	t.Parallel()
	key, part := testKey(30)
	data, _ := testKey(31)
	account, bucket := DeriveAccount(key), DeriveBucket(key)
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		var out []byte
		var err error
		switch d.Cmd {
		case "segments":
			var length int
			d.ScanArgs(t, "bytes", &length)
			sealed, _ := sealAll(t, Options{Format: FormatSealed, Key: key, Part: part, Length: -1}, bytes.NewReader(pattern(length)))
			return fmt.Sprintf("%d bytes, sha256 %x\n", len(sealed), sha256.Sum256(sealed))
		case "wrap-bucket":
			out = account.WrapBucket(testBucketBinding(), data)
		case "wrap-part":
			out = bucket.WrapPart(testBinding(), data)
		case "wrap-manifest":
			out = bucket.WrapManifest(testBinding(), data)
		case "mac":
			sum := bucket.MAC([]byte("part list"))
			out = sum[:]
		case "secret":
			out, err = account.SealSecret(&counting{}, "AKID", []byte("secret"))
		case "name":
			out, err = bucket.SealName(&counting{}, testBinding().Bucket, "mairie")
		default:
			t.Fatalf("unknown command %s", d.Cmd)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x\n", out)
	})
}

func TestWrapping(t *testing.T) {
	t.Parallel()
	key, _ := testKey(40)
	data, _ := testKey(41)
	other, _ := testKey(42)
	keys := DeriveBucket(key)
	b := testBinding()
	wrapped := keys.WrapPart(b, data)
	if len(wrapped) != WrappedBytes {
		t.Errorf("wrapped key of %d bytes", len(wrapped))
	}
	if got, err := keys.UnwrapPart(b, wrapped); got != data || err != nil {
		t.Errorf("UnwrapPart: %v", err)
	}
	manifest := keys.WrapManifest(b, data)
	if got, err := keys.UnwrapManifest(b, manifest); got != data || err != nil {
		t.Errorf("UnwrapManifest: %v", err)
	}
	refused := map[string]func() (Key, error){
		"a manifest key as a part key": func() (Key, error) { return keys.UnwrapPart(b, manifest) },
		"a part key as a manifest key": func() (Key, error) { return keys.UnwrapManifest(b, wrapped) },
		"another bucket key":           func() (Key, error) { return DeriveBucket(other).UnwrapPart(b, wrapped) },
		"an account key":               func() (Key, error) { return DeriveAccount(key).UnwrapBucket(testBucketBinding(), wrapped) },
		"nothing":                      func() (Key, error) { return keys.UnwrapPart(b, nil) },
	}
	for name, change := range map[string]func(*Binding){
		"cluster": func(b *Binding) { b.Cluster[0] ^= 1 }, "bucket": func(b *Binding) { b.Bucket[0] ^= 1 },
		"part": func(b *Binding) { b.Part[0] ^= 1 }, "key id": func(b *Binding) { b.Key[0] ^= 1 },
	} {
		c := b
		change(&c)
		refused["another "+name] = func() (Key, error) { return keys.UnwrapPart(c, wrapped) }
	}
	for i := range wrapped {
		flipped := bytes.Clone(wrapped)
		flipped[i] ^= 1
		refused[fmt.Sprintf("byte %d flipped", i)] = func() (Key, error) { return keys.UnwrapPart(b, flipped) }
	}
	for name, unwrap := range refused {
		if got, err := unwrap(); !errors.Is(err, ErrOpen) || got != (Key{}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWrapBucket(t *testing.T) {
	t.Parallel()
	key, _ := testKey(43)
	bucket, _ := testKey(44)
	keys := DeriveAccount(key)
	b := testBucketBinding()
	wrapped := keys.WrapBucket(b, bucket)
	if got, err := keys.UnwrapBucket(b, wrapped); got != bucket || err != nil {
		t.Errorf("UnwrapBucket: %v", err)
	}
	for name, change := range map[string]func(*BucketBinding){
		"cluster": func(b *BucketBinding) { b.Cluster[0] ^= 1 }, "bucket": func(b *BucketBinding) { b.Bucket[0] ^= 1 },
		"account": func(b *BucketBinding) { b.Account[0] ^= 1 }, "key id": func(b *BucketBinding) { b.Key[0] ^= 1 },
	} {
		c := b
		change(&c)
		if _, err := keys.UnwrapBucket(c, wrapped); !errors.Is(err, ErrOpen) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// TestDerivedKeysDiffer shows that no two purposes share a key.
func TestDerivedKeysDiffer(t *testing.T) {
	t.Parallel()
	key, _ := testKey(45)
	a, b := DeriveAccount(key), DeriveBucket(key)
	all := []Key{key, a.wrap, a.secrets, b.wrap, b.mac, b.names}
	seen := map[Key]bool{}
	for _, k := range all {
		seen[k] = true
	}
	if len(seen) != len(all) {
		t.Errorf("%d keys for %d purposes", len(seen), len(all))
	}
}

func TestMAC(t *testing.T) {
	t.Parallel()
	key, _ := testKey(46)
	keys := DeriveBucket(key)
	sum := keys.MAC([]byte("list"))
	if !keys.VerifyMAC([]byte("list"), sum) {
		t.Error("MAC does not verify")
	}
	if keys.VerifyMAC([]byte("lisT"), sum) {
		t.Error("MAC of another message verifies")
	}
	sum[31] ^= 1
	if keys.VerifyMAC([]byte("list"), sum) {
		t.Error("another MAC verifies")
	}
}

func TestBoxes(t *testing.T) {
	t.Parallel()
	key, _ := testKey(47)
	random := &counting{}
	account, bucket := DeriveAccount(key), DeriveBucket(key)
	for _, plain := range []string{"", "s", strings.Repeat("long ", 1000)} {
		first, err := account.SealSecret(random, "AKID", []byte(plain))
		if err != nil || len(first) != BoxOverhead+len(plain) {
			t.Fatalf("%d bytes, %v", len(first), err)
		}
		second, _ := account.SealSecret(random, "AKID", []byte(plain))
		if bytes.Equal(first, second) {
			t.Error("two boxes of one secret are equal")
		}
		if got, err := account.OpenSecret("AKID", first); string(got) != plain || err != nil {
			t.Errorf("OpenSecret = %q, %v", got, err)
		}
		if _, err := account.OpenSecret("AKIE", first); !errors.Is(err, ErrOpen) {
			t.Errorf("secret of another access key: %v", err)
		}
		for i := range first {
			first[i] ^= 1
			if _, err := account.OpenSecret("AKID", first); !errors.Is(err, ErrOpen) {
				t.Fatalf("byte %d flipped: %v", i, err)
			}
			first[i] ^= 1
		}
		name, err := bucket.SealName(random, metadata.BucketID{1}, plain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := bucket.OpenName(metadata.BucketID{1}, name); got != plain || err != nil {
			t.Errorf("OpenName = %q, %v", got, err)
		}
		if _, err := bucket.OpenName(metadata.BucketID{2}, name); !errors.Is(err, ErrOpen) {
			t.Errorf("name of another bucket: %v", err)
		}
	}
	if _, err := Box(key, strings.NewReader("short"), nil, nil); err == nil {
		t.Error("a box without a salt")
	}
	if _, err := NewKey(strings.NewReader("short")); err == nil {
		t.Error("a key from too few bytes")
	}
	if k, err := NewKey(random); k == (Key{}) || err != nil {
		t.Errorf("NewKey: %v", err)
	}
}

// TestKeysNeverPrint prints keys in all ways a log might.
func TestKeysNeverPrint(t *testing.T) {
	t.Parallel()
	key, part := testKey(48)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", key, "in", struct{ Key Key }{key})
	js, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{log.String(), string(js), key.String()}
	things := []any{key, &key, struct{ Key Key }{key}, []Key{key}, DeriveAccount(key), DeriveBucket(key), Part{Key: key, ID: part}, Options{Key: key},
		*DeriveAccount(key), *DeriveBucket(key), NewSource(Options{Key: key}, nil), NewSealer(FormatPlain, key, part, 0)}
	for _, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
			printed = append(printed, fmt.Sprintf(verb, thing))
		}
	}
	for _, s := range printed {
		for _, secret := range []string{fmt.Sprintf("%x", key[:8]), fmt.Sprintf("%X", key[:8]), "48 51 54", "48,51,54", "0x30, 0x33"} {
			if strings.Contains(s, secret) {
				t.Errorf("key printed: %s", s)
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	key, _ := testKey(49)
	data, _ := testKey(50)
	keys := DeriveBucket(key)
	wrapped := keys.WrapPart(testBinding(), data)
	f.Add(wrapped)
	f.Add(wrapped[:WrappedBytes-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := keys.UnwrapPart(testBinding(), b)
		if genuine := bytes.Equal(b, wrapped); (err == nil) != genuine || genuine && got != data {
			t.Fatalf("UnwrapPart: %v", err)
		}
		if _, err := OpenBox(key, nil, b); err == nil {
			t.Fatal("a wrapped key opens as a box")
		}
	})
}

func BenchmarkWrapPart(b *testing.B) {
	key, _ := testKey(51)
	keys := DeriveBucket(key)
	b.ReportAllocs()
	for b.Loop() {
		keys.WrapPart(testBinding(), key)
	}
}
