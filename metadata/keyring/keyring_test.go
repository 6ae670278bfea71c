package keyring

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// cheap keeps the tests fast; the code is what carries the strength.
var cheap = KDF{Time: 1, MemoryKiB: 8, Threads: 1}

func source(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func create(t testing.TB, seed byte, drives int) (*Keyring, string) {
	t.Helper()
	random := source(seed)
	k, code, err := Create(Options{Cluster: ClusterID{seed, 1, 2}, Random: random, Now: time.Unix(1_790_000_000, 0), KDF: cheap})
	if err != nil {
		t.Fatal(err)
	}
	var ids []topology.DriveID
	for i := range drives {
		ids = append(ids, driveID(i))
	}
	if k, err = k.WithDrives(random, ids...); err != nil {
		t.Fatal(err)
	}
	return k, code
}

func driveID(i int) topology.DriveID { return topology.DriveID{byte(200 - i), byte(i), 1} }

// equal compares all there is, keys included.
func equal(a, b *Keyring) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

func TestCreate(t *testing.T) {
	t.Parallel()
	k, code := create(t, 1, 0)
	if k.Version() != 1 || len(k.Masters()) != 1 || !k.Masters()[0].Current || k.Verified() != (Verification{}) {
		t.Errorf("%v, %+v", k, k.Masters())
	}
	if err := k.CheckCode(code); err != nil {
		t.Errorf("own code: %v", err)
	}
	_, other := create(t, 2, 0)
	if err := k.CheckCode(other); !errors.Is(err, ErrWrongCode) {
		t.Errorf("code of another keyring: %v", err)
	}
	if err := k.CheckCluster(k.Cluster()); err != nil {
		t.Error(err)
	}
	if err := k.CheckCluster(ClusterID{9}); !errors.Is(err, ErrCluster) || !strings.Contains(err.Error(), k.Cluster().String()) {
		t.Errorf("another cluster: %v", err)
	}
	if _, _, err := Create(Options{Random: strings.NewReader("short")}); err == nil {
		t.Error("created from too little randomness")
	}
	if _, _, err := Create(Options{Random: source(1), KDF: KDF{Time: 1, MemoryKiB: 1 << 30, Threads: 1}}); err == nil {
		t.Error("created with a terabyte")
	}
}

func TestDefaultKDFWorks(t *testing.T) {
	t.Parallel()
	k, code, err := Create(Options{Cluster: ClusterID{1}, Random: source(3), Now: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := k.Sealed(source(4), topology.DriveID{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenSealed(sealed, code); err != nil || !equal(got, k) {
		t.Errorf("OpenSealed: %v", err)
	}
}

func TestDrives(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 5, 3)
	seen := map[Key]bool{}
	for i := range 3 {
		key, err := k.DriveKey(driveID(i))
		if err != nil {
			t.Fatal(err)
		}
		seen[key] = true
	}
	if len(seen) != 3 || seen[Key{}] {
		t.Error("store keys are not distinct")
	}
	if _, err := k.DriveKey(driveID(9)); !errors.Is(err, ErrNoKey) {
		t.Errorf("DriveKey of a stranger: %v", err)
	}
	if same, err := k.WithDrives(source(6), driveID(1), driveID(2)); same != k || err != nil {
		t.Errorf("drives that have keys: %v, %v", same, err)
	}
	more, err := k.WithDrives(source(6), driveID(2), driveID(7))
	if err != nil || more.Version() != k.Version()+1 || len(more.Drives()) != 4 || len(k.Drives()) != 3 {
		t.Fatalf("%v then %v, %v", k, more, err)
	}
	before, _ := k.DriveKey(driveID(2))
	if after, _ := more.DriveKey(driveID(2)); after != before {
		t.Error("a drive got another key")
	}
	fewer := more.WithoutDrive(driveID(0))
	if _, err := fewer.DriveKey(driveID(0)); !errors.Is(err, ErrNoKey) || fewer.Version() != more.Version()+1 {
		t.Errorf("retired drive: %v in %v", err, fewer)
	}
	if fewer.WithoutDrive(driveID(0)) != fewer {
		t.Error("retiring twice is a change")
	}
	if _, err := more.DriveKey(driveID(0)); err != nil {
		t.Errorf("the older keyring changed: %v", err)
	}
	if _, err := k.WithDrives(source(7), topology.DriveID{}); err == nil {
		t.Error("a key for no drive")
	}
}

// TestStates gives stores in state directories keys of their own, which every
// sealed copy has. A drive that is the only one keeps its key in its own copy
// all the same.
func TestStates(t *testing.T) {
	t.Parallel()
	k, code := create(t, 5, 1)
	with, err := k.WithState(source(6), driveID(7))
	if err != nil || with.Version() != k.Version()+1 || len(with.Drives()) != 1 {
		t.Fatalf("%v then %v, %v", k, with, err)
	}
	if with, err = with.WithState(source(7), driveID(3)); err != nil {
		t.Fatal(err)
	}
	if same, err := with.WithState(source(8), driveID(7)); same != with || err != nil {
		t.Errorf("a state directory that has a key: %v, %v", same, err)
	}
	key, err := with.StateKey(driveID(7))
	if other, err2 := with.StateKey(driveID(3)); err != nil || err2 != nil || key == other || key == (Key{}) {
		t.Errorf("keys of state directories: %v, %v, or they are not distinct", err, err2)
	}
	for _, k := range []*Keyring{k, with} {
		if _, err := k.StateKey(driveID(0)); !errors.Is(err, ErrNoKey) {
			t.Errorf("StateKey of a drive: %v", err)
		}
	}
	if _, err := with.DriveKey(driveID(7)); !errors.Is(err, ErrNoKey) {
		t.Errorf("DriveKey of a state directory: %v", err)
	}
	if _, err := with.WithState(source(9), topology.DriveID{}); err == nil {
		t.Error("a key for no state directory")
	}
	if read, err := Parse(with.Marshal()); err != nil || !equal(read, with) {
		t.Errorf("read as %v, %v", read, err)
	}
	sealed, err := with.Sealed(source(10), driveID(0))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenSealed(sealed, code)
	if err != nil || !equal(opened, with) {
		t.Errorf("the copy on the only drive is %v, %v; want %v", opened, err, with)
	}
	reversed := with.next()
	slices.Reverse(reversed.states)
	if _, err := Parse(reversed.Marshal()); !errors.Is(err, ErrDamaged) {
		t.Errorf("state directories out of order: %v", err)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	k, code := create(t, 8, 1)
	account, id, key := metadata.AccountID{1}, metadata.KeyID{2}, Key{3}
	by, wrapped, err := k.WrapAccount(account, id, key)
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := k.Rotate(source(9), time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if rotated.Version() != k.Version()+1 || len(rotated.Masters()) != 2 || rotated.Masters()[0].Current || !rotated.Masters()[1].Current {
		t.Errorf("%v: %+v", rotated, rotated.Masters())
	}
	if got, err := rotated.UnwrapAccount(account, id, by, wrapped); got != key || err != nil {
		t.Errorf("wrapped before the rotation: %v", err)
	}
	newBy, newWrapped, err := rotated.WrapAccount(account, id, key)
	if err != nil || newBy == by || bytes.Equal(newWrapped, wrapped) {
		t.Errorf("the new master key is not used: %v", err)
	}
	if _, err := k.UnwrapAccount(account, id, newBy, newWrapped); !errors.Is(err, ErrNoKey) {
		t.Errorf("unwrapped by a key the keyring has not: %v", err)
	}
	if _, err := rotated.Drop(newBy); err == nil {
		t.Error("the current key was dropped")
	}
	dropped, err := rotated.Drop(by)
	if err != nil || len(dropped.Masters()) != 1 {
		t.Fatalf("%v, %v", dropped, err)
	}
	if _, err := dropped.Drop(by); !errors.Is(err, ErrNoKey) {
		t.Errorf("dropped twice: %v", err)
	}
	if got, err := dropped.UnwrapAccount(account, id, newBy, newWrapped); got != key || err != nil {
		t.Errorf("after the drop: %v", err)
	}
	if err := dropped.CheckCode(code); err != nil {
		t.Errorf("the code changed: %v", err)
	}
}

func TestUnwrapRefuses(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 10, 0)
	account, id, key := metadata.AccountID{1}, metadata.KeyID{2}, Key{3}
	by, wrapped, err := k.WrapAccount(account, id, key)
	if err != nil || len(wrapped) != WrappedBytes {
		t.Fatal(err)
	}
	for i := range wrapped {
		flipped := bytes.Clone(wrapped)
		flipped[i] ^= 1
		if _, err := k.UnwrapAccount(account, id, by, flipped); !errors.Is(err, ErrUnwrap) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	if _, err := k.UnwrapAccount(metadata.AccountID{9}, id, by, wrapped); !errors.Is(err, ErrUnwrap) {
		t.Errorf("another account: %v", err)
	}
	if _, err := k.UnwrapAccount(account, metadata.KeyID{9}, by, wrapped); !errors.Is(err, ErrUnwrap) {
		t.Errorf("another key id: %v", err)
	}
	if _, err := k.UnwrapAccount(account, id, by, nil); !errors.Is(err, ErrUnwrap) {
		t.Errorf("nothing: %v", err)
	}
	moved := *k
	moved.cluster = ClusterID{9}
	if _, err := moved.UnwrapAccount(account, id, by, wrapped); !errors.Is(err, ErrUnwrap) {
		t.Errorf("another cluster: %v", err)
	}
}

func TestCodes(t *testing.T) {
	t.Parallel()
	k, code := create(t, 11, 0)
	if len(code) != 35 || strings.ContainsAny(code, "ILOU") || strings.Count(code, "-") != 5 {
		t.Errorf("code %q", code)
	}
	for _, typed := range []string{
		strings.ToLower(code), strings.ReplaceAll(code, "-", ""), strings.ReplaceAll(code, "-", " \n"), " " + code + "\r\n",
		strings.NewReplacer("0", "O", "1", "l").Replace(code), strings.NewReplacer("0", "o", "1", "I").Replace(code),
	} {
		if err := k.CheckCode(typed); err != nil {
			t.Errorf("typed as %q: %v", typed, err)
		}
	}
	for i := range code { // every single wrong character
		for _, c := range alphabet {
			if code[i] == '-' || byte(c) == code[i] {
				continue
			}
			typed := code[:i] + string(c) + code[i+1:]
			if err := k.CheckCode(typed); !errors.Is(err, ErrMistyped) {
				t.Fatalf("%q for %q: %v", typed, code, err)
			}
		}
	}
	for _, typed := range []string{"", code[:34], code + "0", "U" + code[1:], "é" + code[1:], strings.Repeat("0", 30), strings.Repeat("0", 1<<20)} {
		err := k.CheckCode(typed)
		if !errors.Is(err, ErrMistyped) || len(err.Error()) > 200 || len(typed) > 20 && strings.Contains(err.Error(), typed[1:15]) {
			t.Errorf("%.40q: %v", typed, err)
		}
	}
	renewed, second, err := k.ReplaceCode(source(12), cheap)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.CheckCode(second) != nil || !errors.Is(renewed.CheckCode(code), ErrWrongCode) || renewed.Version() != k.Version()+1 {
		t.Error("the new code does not replace the old one")
	}
}

// TestSealedCopies loses the file and opens the copies of the drives.
func TestSealedCopies(t *testing.T) {
	t.Parallel()
	older, code := create(t, 13, 2)
	k, err := older.WithDrives(source(12), driveID(2), driveID(3))
	if err != nil {
		t.Fatal(err)
	}
	var copies []*Keyring
	for i := range 4 {
		b, err := k.Sealed(source(byte(20+i)), driveID(i))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := InspectSealed(b); info.Cluster != k.Cluster() || info.Version != k.Version() || err != nil {
			t.Errorf("InspectSealed = %+v, %v", info, err)
		}
		for j := range 4 {
			key, _ := k.DriveKey(driveID(j))
			if bytes.Contains(b, key[:]) {
				t.Fatal("a sealed copy shows a store key")
			}
		}
		c, err := OpenSealed(b, code)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.DriveKey(driveID(i)); !errors.Is(err, ErrNoKey) || len(c.Drives()) != 3 {
			t.Errorf("copy of drive %d: own key %v, %v", i, err, c)
		}
		copies = append(copies, c)
	}
	for _, set := range [][]int{{0, 1}, {1, 0}, {3, 2, 1, 0}} {
		var some []*Keyring
		for _, i := range set {
			some = append(some, copies[i])
		}
		if merged, err := Merge(some...); err != nil || !equal(merged, k) {
			t.Errorf("copies %v merge to %v, %v", set, merged, err)
		}
	}
	alone, err := Merge(copies[2])
	if !errors.Is(err, ErrNoKey) || len(alone.Drives()) != 3 || !strings.Contains(err.Error(), driveID(2).String()) {
		t.Errorf("one copy: %v, %v", alone, err)
	}
	if merged, err := Merge(older, copies[0]); err != nil || !equal(merged, k) {
		t.Errorf("an older keyring helps: %v, %v", merged, err)
	}
	if merged, err := Merge(copies[1], k, older); err != nil || merged != k {
		t.Errorf("the file is there too: %v, %v", merged, err)
	}
	stranger, _ := create(t, 14, 2)
	if _, err := Merge(copies[0], stranger); !errors.Is(err, ErrCluster) {
		t.Errorf("another cluster: %v", err)
	}
	if _, err := Merge(); err == nil {
		t.Error("nothing merges")
	}
	only, onlyCode := create(t, 15, 1)
	b, err := only.Sealed(source(30), driveID(0))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := OpenSealed(b, onlyCode); err != nil || !equal(c, only) {
		t.Errorf("the only drive's copy: %v, %v", c, err)
	}
}

func TestSealedRefuses(t *testing.T) {
	t.Parallel()
	k, code := create(t, 16, 2)
	b, err := k.Sealed(source(1), topology.DriveID{})
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := k.Sealed(source(2), topology.DriveID{}); bytes.Equal(b, again) {
		t.Error("two copies are sealed alike")
	}
	_, other := create(t, 17, 0)
	if _, err := OpenSealed(b, other); !errors.Is(err, ErrWrongCode) {
		t.Errorf("another code: %v", err)
	}
	if _, err := OpenSealed(b, code[1:]); !errors.Is(err, ErrMistyped) {
		t.Errorf("half a code: %v", err)
	}
	for i := range b {
		b[i] ^= 1
		if _, err := OpenSealed(b, code); !errors.Is(err, ErrDamaged) && !(errors.Is(err, ErrNewer) && i >= 8 && i < 12) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		b[i] ^= 1
	}
	for n := range len(b) {
		if _, err := OpenSealed(b[:n], code); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

func TestSealedNames(t *testing.T) {
	t.Parallel()
	if got := SealedName(17); got != "keyring.sealed.17" {
		t.Errorf("SealedName = %q", got)
	}
	if v, ok := ParseSealedName("keyring.sealed.17"); v != 17 || !ok {
		t.Errorf("ParseSealedName = %d, %t", v, ok)
	}
	for _, name := range []string{"", "17", "keyring.sealed.", "keyring.sealed.0", "keyring.sealed.017", "keyring.sealed.-1", "keyring.sealed.1.tmp", "keyring.sealed.18446744073709551616"} {
		if v, ok := ParseSealedName(name); ok {
			t.Errorf("ParseSealedName(%q) = %d", name, v)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "keyring")
	if _, err := Load(vfs.Default, path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	k, _ := create(t, 18, 2)
	// Left by an earlier life that died while it saved.
	if err := os.MkdirAll(path+".new/keyring", 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := k.Save(vfs.Default, path); err != nil {
			t.Fatal(err)
		}
		got, err := Load(vfs.Default, path)
		if err != nil || !equal(got, k) {
			t.Fatalf("Load = %v, %v", got, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		k = k.WithVerification(time.Unix(1_790_000_001, 0))
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(vfs.Default, path); !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "0640") {
		t.Errorf("mode 0640: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, MaxBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(vfs.Default, filepath.Join(dir, "big")); !errors.Is(err, ErrDamaged) {
		t.Errorf("too long: %v", err)
	}
}

// TestSaveSurvivesCrashes cuts the power at every operation: the file is the
// old keyring or the new one, and the new one once Save has returned.
func TestSaveSurvivesCrashes(t *testing.T) {
	t.Parallel()
	older, _ := create(t, 19, 2)
	newer, err := older.Rotate(source(1), time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	for at := 0; ; at++ {
		mem := vfs.NewCrashableMem()
		if err := mem.MkdirAll("/state", 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := mem.OpenDir("/")
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := older.Save(mem, "/state/keyring"); err != nil {
			t.Fatal(err)
		}
		var after *vfs.MemFS
		count := 0
		counted := errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			if count++; count == at+1 {
				after = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(2) * 90, RNG: random})
			}
			return nil
		}))
		if err := newer.Save(counted, "/state/keyring"); err != nil {
			t.Fatal(err)
		}
		saved := after == nil
		if saved {
			after = mem.CrashClone(vfs.CrashCloneCfg{})
		}
		got, err := Load(after, "/state/keyring")
		if err != nil || !equal(got, newer) && (saved || !equal(got, older)) {
			t.Fatalf("crash before operation %d of %d: %v, %v", at+1, count, got, err)
		}
		if saved {
			return
		}
	}
}

// TestSaveReportsErrors fails every operation in turn.
func TestSaveReportsErrors(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 21, 1)
	failed := errors.New("no space left")
	for at := 0; ; at++ {
		mem := vfs.NewMem()
		count := 0
		fails := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if count++; count == at+1 {
				return failed
			}
			return nil
		}))
		err := k.Save(fails, "keyring")
		if count <= at {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if !errors.Is(err, failed) {
			t.Fatalf("operation %d fails, Save = %v", at+1, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 22, 2)
	good := k.Marshal()
	for i := range good {
		good[i] ^= 1
		if _, err := Parse(good); !errors.Is(err, ErrDamaged) && !(errors.Is(err, ErrNewer) && i >= 8 && i < 12) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		good[i] ^= 1
	}
	for n := range len(good) {
		if _, err := Parse(good[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
	for name, change := range map[string]func(*Keyring){
		"version 0":       func(k *Keyring) { k.version = 0 },
		"no current key":  func(k *Keyring) { k.current = metadata.KeyID{} },
		"drives unsorted": func(k *Keyring) { slices.Reverse(k.drives) },
		"a drive twice":   func(k *Keyring) { k.drives[1] = k.drives[0] },
		"no drive id":     func(k *Keyring) { k.drives[0].id = topology.DriveID{} },
		"memory":          func(k *Keyring) { k.recovery.kdf.MemoryKiB = 1 << 30 },
		"no threads":      func(k *Keyring) { k.recovery.kdf.Threads = 0 },
		"unknown inside":  func(k *Keyring) { k.unknown = appendBytes(nil, fieldMaster, appendUint(nil, 99, 1)) },
		"wrong type":      func(k *Keyring) { k.unknown = appendUint(nil, fieldCluster, 1) },
		"short id":        func(k *Keyring) { k.unknown = appendBytes(nil, fieldCurrent, []byte("short")) },
	} {
		c := k.next()
		change(c)
		if _, err := Parse(c.Marshal()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnknownFieldsAreKept reads a keyring of a later version that only added
// something, changes it, and finds the addition again.
func TestUnknownFieldsAreKept(t *testing.T) {
	t.Parallel()
	k, code := create(t, 23, 1)
	k.unknown = appendBytes(nil, 100, []byte("of a later version"))
	k.unknown = protowire.AppendFixed64(protowire.AppendTag(k.unknown, 101, protowire.Fixed64Type), 7)
	got, err := Parse(k.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if got, err = got.Rotate(source(1), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	b, err := got.Sealed(source(2), topology.DriveID{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err = OpenSealed(b, code); err != nil || !bytes.Equal(got.unknown, k.unknown) {
		t.Errorf("unknown fields %x, %v; want %x", got.unknown, err, k.unknown)
	}
}

func TestLargestFits(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 24, 0)
	random := source(25)
	ids := make([]topology.DriveID, MaxDrives)
	for i := range ids {
		ids[i] = topology.DriveID{byte(i >> 8), byte(i), 1}
	}
	k, err := k.WithDrives(random, ids...)
	if err != nil {
		t.Fatal(err)
	}
	for len(k.Masters()) < MaxMasters {
		if k, err = k.Rotate(random, time.Unix(1_790_000_000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range MaxStates {
		if k, err = k.WithState(random, topology.DriveID{byte(i >> 8), byte(i), 2}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.WithState(random, topology.DriveID{255, 255}); err == nil {
		t.Error("one state directory too many")
	}
	if _, err := k.Rotate(random, time.Time{}); err == nil {
		t.Error("one master key too many")
	}
	if _, err := k.WithDrives(random, topology.DriveID{255, 255}); err == nil {
		t.Error("one drive too many")
	}
	mem := vfs.NewMem()
	if err := k.Save(mem, "keyring"); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(mem, "keyring"); err != nil || !equal(got, k) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := k.Sealed(random, topology.DriveID{}); err != nil {
		t.Error(err)
	}
}

// TestGolden reads a keyring and a sealed copy that an earlier build wrote,
// and writes the keyring as it did.
func TestGolden(t *testing.T) {
	t.Parallel()
	k, code := create(t, 26, 2)
	k = k.WithVerification(time.Unix(1_790_000_100, 0))
	state, err := k.WithState(source(28), driveID(9))
	if err != nil {
		t.Fatal(err)
	}
	by, wrapped, err := k.WrapAccount(metadata.AccountID{1}, metadata.KeyID{2}, Key{3})
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		sealed, err := k.Sealed(source(27), driveID(1))
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("file %x\nsealed %x\ncode %s\nwrapped-by %s\nwrapped %x\nstate %x\n", k.Marshal(), sealed, code, by, wrapped, state.Marshal())
		if err := os.WriteFile("testdata/golden", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("testdata/golden")
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		golden[name] = value
	}
	file, _ := hex.DecodeString(golden["file"])
	sealed, _ := hex.DecodeString(golden["sealed"])
	if !bytes.Equal(k.Marshal(), file) || golden["code"] != code {
		t.Error("the file is written in another way")
	}
	read, err := Parse(file)
	if err != nil || !equal(read, k) {
		t.Errorf("the file of an earlier build: %v, %v", read, err)
	}
	withState, _ := hex.DecodeString(golden["state"])
	if read, err := Parse(withState); err != nil || !equal(read, state) {
		t.Errorf("the file of an earlier build, with a state directory: %v, %v", read, err)
	}
	opened, err := OpenSealed(sealed, golden["code"])
	if err != nil {
		t.Fatalf("the sealed copy of an earlier build: %v", err)
	}
	if merged, err := Merge(opened, k.next()); err != nil || merged.Version() != k.Version()+1 {
		t.Errorf("%v, %v", merged, err)
	}
	old, _ := hex.DecodeString(golden["wrapped"])
	if got, err := opened.UnwrapAccount(metadata.AccountID{1}, metadata.KeyID{2}, by, old); got != (Key{3}) || err != nil || golden["wrapped-by"] != by.String() {
		t.Errorf("an account key of an earlier build: %v", err)
	}
}

// TestKeysNeverPrint prints keyrings and keys in all ways a log might.
func TestKeysNeverPrint(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 28, 1)
	key, err := k.DriveKey(driveID(0))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", key, "keyring", k, "in", struct{ Key Key }{key})
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", key, "keyring", k, "in", struct{ Key Key }{key})
	js, err := json.Marshal([]any{key, k})
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{log.String(), string(js), key.String()}
	for _, thing := range []any{key, &key, []Key{key}, struct{ Key Key }{key}, k, *k, []*Keyring{k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
			printed = append(printed, fmt.Sprintf(verb, thing))
		}
	}
	spaced := strings.Trim(fmt.Sprint(key[:4]), "[]")
	for _, s := range printed {
		for _, secret := range []string{hex.EncodeToString(key[:4]), strings.ToUpper(hex.EncodeToString(key[:4])), spaced,
			strings.ReplaceAll(spaced, " ", ","), fmt.Sprintf("%#x, %#x", key[0], key[1])} {
			if strings.Contains(s, secret) {
				t.Errorf("key printed: %s", s)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	k, _ := create(f, 29, 2)
	f.Add(k.Marshal())
	sealed, err := k.Sealed(source(1), driveID(0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(k.body(topology.DriveID{}))
	f.Add([]byte(fileMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Parse(b); err == nil && !bytes.Equal(b, k.Marshal()) {
			// Whoever has the keys may write another file, as fuzzing does not.
			t.Fatalf("%x is a keyring", b)
		}
		if _, err := InspectSealed(b); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
		if parsed, err := parseBody(b); err == nil {
			again, err := parseBody(parsed.body(topology.DriveID{}))
			if err != nil || !equal(parsed, again) {
				t.Fatalf("%x is written as something else: %v", b, err)
			}
		} else if !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}

func FuzzParseCode(f *testing.F) {
	_, code := create(f, 31, 0)
	f.Add(code)
	f.Add("oil0-OIL")
	f.Fuzz(func(t *testing.T, typed string) {
		symbols, err := parseCode(typed)
		if err != nil {
			if !errors.Is(err, ErrMistyped) {
				t.Fatal(err)
			}
			return
		}
		if again, err := parseCode(printCode(symbols)); again != symbols || err != nil {
			t.Fatalf("%q is read as %q and then %q, %v", typed, symbols, again, err)
		}
	})
}
