package keyring

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	fileMagic   = "RUCHEKEY"
	sealedMagic = "RUCHESKR"
	fileFormat  = 1

	// MaxBytes bounds a keyring, as a file and sealed. It has room for
	// [MaxDrives] and [MaxMasters].
	MaxBytes = 1 << 20

	fileHeader   = 8 + 4 + 4
	sealedHeader = 8 + 4 + 16 + 8 + 4 + 4 + 4 + 16 + 16 + 4
)

// Numbers of the fields of a body.
const (
	fieldCluster  = 1
	fieldVersion  = 2
	fieldCurrent  = 3
	fieldMaster   = 4
	fieldDrive    = 5
	fieldRecovery = 6
	fieldVerified = 7
	fieldOmitted  = 8
	fieldState    = 9
)

// Marshal returns the keyring as its file has it, with all keys readable. Two
// equal keyrings are equal bytes.
func (k *Keyring) Marshal() []byte {
	body := k.body(topology.DriveID{})
	b := make([]byte, 0, fileHeader+len(body)+sha256.Size)
	b = append(b, fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, fileFormat)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	return append(b, k.authenticate(b)...)
}

func (k *Keyring) authenticate(b []byte) []byte {
	key := derive(k.recovery.key, nil, labelFile)
	h := hmac.New(sha256.New, key[:])
	h.Write(b)
	return h.Sum(nil)
}

// Parse reads what [Keyring.Marshal] returned. The error wraps [ErrDamaged] or
// [ErrNewer].
func Parse(b []byte) (*Keyring, error) {
	if len(b) < fileHeader+sha256.Size || len(b) > MaxBytes || string(b[:8]) != fileMagic {
		return nil, fmt.Errorf("%w (no keyring file)", ErrDamaged)
	}
	if f := binary.LittleEndian.Uint32(b[8:]); f != fileFormat {
		return nil, fmt.Errorf("%w (format %d)", ErrNewer, f)
	}
	if int64(binary.LittleEndian.Uint32(b[12:])) != int64(len(b)-fileHeader-sha256.Size) {
		return nil, fmt.Errorf("%w (cut off)", ErrDamaged)
	}
	end := len(b) - sha256.Size
	k, err := parseBody(b[fileHeader:end])
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(k.authenticate(b[:end]), b[end:]) {
		return nil, fmt.Errorf("%w (authentication fails)", ErrDamaged)
	}
	return k, nil
}

// Load reads the keyring file. It refuses one that others than its owner may
// read, with an error wrapping [ErrPermissions]; a missing one is
// fs.ErrNotExist.
func Load(fs vfs.FS, path string) (*Keyring, error) {
	b, err := readFile(fs, path)
	if err != nil {
		return nil, fmt.Errorf("keyring: %s: %w", path, err)
	}
	k, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("keyring: %s: %w", path, err)
	}
	return k, nil
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// A file in memory has no permissions of its own.
	if perm := info.Mode().Perm(); f.Fd() != vfs.InvalidFd && perm&0o077 != 0 {
		return nil, fmt.Errorf("%w (mode %04o)", ErrPermissions, perm)
	}
	return io.ReadAll(io.LimitReader(f, MaxBytes+1))
}

// Save writes the keyring file, mode 0600, atomically and durably: after a
// crash the file is the old or the new one. It is written in a directory of
// mode 0700 beside path, as a file system of package vfs creates files that
// others may open, and moved out when it is whole.
func (k *Keyring) Save(fs vfs.FS, path string) error {
	if err := k.save(fs, path); err != nil {
		return fmt.Errorf("keyring: save %s: %w", path, err)
	}
	return nil
}

func (k *Keyring) save(fs vfs.FS, path string) error {
	b := k.Marshal()
	if len(b) > MaxBytes {
		return fmt.Errorf("%d bytes are more than %d", len(b), MaxBytes)
	}
	private := path + ".new"
	if err := fs.RemoveAll(private); err != nil { // left by a crash
		return err
	}
	if err := fs.MkdirAll(private, 0o700); err != nil {
		return err
	}
	temporary := fs.PathJoin(private, "keyring")
	if err := writePrivate(fs, temporary, b); err != nil {
		return err
	}
	if err := fs.Rename(temporary, path); err != nil {
		return err
	}
	dir, err := fs.OpenDir(fs.PathDir(path))
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		dir.Close()
		return err
	}
	if err := dir.Close(); err != nil {
		return err
	}
	return fs.RemoveAll(private)
}

// writePrivate creates a durable file of mode 0600. It clears b.
func writePrivate(fs vfs.FS, name string, b []byte) error {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer clear(b)
	if fd := f.Fd(); fd != vfs.InvalidFd {
		if err := unix.Fchmod(int(fd), 0o600); err != nil {
			f.Close()
			return err
		}
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// body encodes the fields, without the key of the drive omit unless it is
// zero.
func (k *Keyring) body(omit topology.DriveID) []byte {
	b := appendBytes(nil, fieldCluster, k.cluster[:])
	b = appendUint(b, fieldVersion, k.version)
	b = appendBytes(b, fieldCurrent, k.current[:])
	for _, m := range k.masters {
		sub := appendBytes(nil, 1, m.id[:])
		sub = appendBytes(sub, 2, m.key[:])
		b = appendBytes(b, fieldMaster, appendUint(sub, 3, uint64(m.created)))
	}
	for _, d := range k.drives {
		if omit.IsZero() || d.id != omit {
			sub := appendBytes(nil, 1, d.id[:])
			b = appendBytes(b, fieldDrive, appendBytes(sub, 2, d.key[:]))
		}
	}
	r := appendBytes(nil, 1, k.recovery.salt[:])
	r = appendUint(r, 2, uint64(k.recovery.kdf.Time))
	r = appendUint(r, 3, uint64(k.recovery.kdf.MemoryKiB))
	r = appendUint(r, 4, uint64(k.recovery.kdf.Threads))
	b = appendBytes(b, fieldRecovery, appendBytes(r, 5, k.recovery.key[:]))
	if k.verified != (Verification{}) {
		sub := appendUint(nil, 1, k.verified.Version)
		b = appendBytes(b, fieldVerified, appendUint(sub, 2, uint64(k.verified.At)))
	}
	if !omit.IsZero() {
		b = appendBytes(b, fieldOmitted, omit[:])
	} else if !k.omitted.IsZero() {
		b = appendBytes(b, fieldOmitted, k.omitted[:])
	}
	for _, d := range k.states {
		sub := appendBytes(nil, 1, d.id[:])
		b = appendBytes(b, fieldState, appendBytes(sub, 2, d.key[:]))
	}
	return append(b, k.unknown...)
}

func appendBytes(b []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), value)
}

func appendUint(b []byte, field protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), value)
}

// parseBody is the reverse of body. Every error wraps [ErrDamaged].
func parseBody(b []byte) (*Keyring, error) {
	k := &Keyring{}
	err := fields(b, func(field protowire.Number, v value) error {
		switch field {
		case fieldCluster:
			return v.fixed(k.cluster[:])
		case fieldVersion:
			return v.uint(&k.version)
		case fieldCurrent:
			return v.fixed(k.current[:])
		case fieldMaster:
			return k.parseMaster(v)
		case fieldDrive:
			return parseDrive(v, &k.drives)
		case fieldState:
			return parseDrive(v, &k.states)
		case fieldRecovery:
			return k.recovery.parse(v)
		case fieldVerified:
			return k.verified.parse(v)
		case fieldOmitted:
			return v.fixed(k.omitted[:])
		}
		k.unknown = append(k.unknown, v.whole...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return k, k.validate()
}

func (k *Keyring) parseMaster(v value) error {
	var m master
	var created uint64
	err := v.message(func(field protowire.Number, v value) error {
		switch field {
		case 1:
			return v.fixed(m.id[:])
		case 2:
			return v.fixed(m.key[:])
		case 3:
			return v.uint(&created)
		}
		return damaged("field %d of a master key", field)
	})
	m.created = int64(created)
	k.masters = append(k.masters, m)
	return err
}

// parseDrive appends a drive or a state directory to its list.
func parseDrive(v value, list *[]drive) error {
	var d drive
	err := v.message(func(field protowire.Number, v value) error {
		switch field {
		case 1:
			return v.fixed(d.id[:])
		case 2:
			return v.fixed(d.key[:])
		}
		return damaged("field %d of a drive", field)
	})
	*list = append(*list, d)
	return err
}

func (r *recovery) parse(v value) error {
	var time, memory, threads uint64
	err := v.message(func(field protowire.Number, v value) error {
		switch field {
		case 1:
			return v.fixed(r.salt[:])
		case 2:
			return v.uint(&time)
		case 3:
			return v.uint(&memory)
		case 4:
			return v.uint(&threads)
		case 5:
			return v.fixed(r.key[:])
		}
		return damaged("field %d of the recovery key", field)
	})
	if err != nil {
		return err
	}
	r.kdf, err = kdfOf(time, memory, threads)
	return err
}

// kdfOf checks parameters that were read.
func kdfOf(time, memory, threads uint64) (KDF, error) {
	if time > 1<<16 || memory > 1<<31 || threads > 255 {
		return KDF{}, damaged("parameters of Argon2id")
	}
	p := KDF{Time: uint32(time), MemoryKiB: uint32(memory), Threads: uint8(threads)}
	if p.Validate() != nil {
		return KDF{}, damaged("parameters of Argon2id")
	}
	return p, nil
}

func (a *Verification) parse(v value) error {
	var at uint64
	err := v.message(func(field protowire.Number, v value) error {
		switch field {
		case 1:
			return v.uint(&a.Version)
		case 2:
			return v.uint(&at)
		}
		return damaged("field %d of the verification", field)
	})
	a.At = int64(at)
	return err
}

// validate checks what the rest of the package relies on.
func (k *Keyring) validate() error {
	_, missing := k.master(k.current)
	switch {
	case k.version == 0 || missing != nil:
		return damaged("no current master key")
	case len(k.masters) > MaxMasters || len(k.drives) > MaxDrives || len(k.states) > MaxStates || !inOrder(k.drives) || !inOrder(k.states):
		return damaged("keys out of order")
	case k.recovery.kdf.Validate() != nil:
		return damaged("no recovery key")
	}
	return nil
}

// inOrder reports whether a list is sorted by id, and each id is there once.
func inOrder(list []drive) bool {
	for i := range list {
		if list[i].id.IsZero() || i > 0 && bytes.Compare(list[i-1].id[:], list[i].id[:]) >= 0 {
			return false
		}
	}
	return true
}

// value is a field of a message: a number or bytes, and its encoding.
type value struct {
	typ    protowire.Type
	number uint64
	bytes  []byte
	whole  []byte
}

func (v value) fixed(into []byte) error {
	if v.typ != protowire.BytesType || len(v.bytes) != len(into) {
		return damaged("%d bytes where %d belong", len(v.bytes), len(into))
	}
	copy(into, v.bytes)
	return nil
}

func (v value) uint(into *uint64) error {
	if v.typ != protowire.VarintType {
		return damaged("no number where one belongs")
	}
	*into = v.number
	return nil
}

func (v value) message(each func(protowire.Number, value) error) error {
	if v.typ != protowire.BytesType {
		return damaged("no message where one belongs")
	}
	return fields(v.bytes, each)
}

// fields calls each for every field of b.
func fields(b []byte, each func(protowire.Number, value) error) error {
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return damaged("%v", protowire.ParseError(n))
		}
		v := value{typ: typ}
		m := protowire.ConsumeFieldValue(field, typ, b[n:])
		if m < 0 {
			return damaged("%v", protowire.ParseError(m))
		}
		switch typ {
		case protowire.VarintType:
			v.number, _ = protowire.ConsumeVarint(b[n:])
		case protowire.BytesType:
			v.bytes, _ = protowire.ConsumeBytes(b[n:])
		}
		v.whole = b[:n+m]
		if err := each(field, v); err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w (%s)", ErrDamaged, fmt.Sprintf(format, args...))
}

// Sealed returns the copy of the keyring for a drive, sealed under the
// recovery code. The store key of the drive omit is left out of it, unless
// that is the only drive; a zero omit leaves out none, as for a backup that
// its owner takes away. Every copy is sealed anew under a key of its own,
// derived with a fresh salt.
func (k *Keyring) Sealed(random io.Reader, omit topology.DriveID) ([]byte, error) {
	if _, found := k.find(omit); !found || len(k.drives) == 1 {
		omit = topology.DriveID{}
	}
	body := k.body(omit)
	b := make([]byte, 0, sealedHeader+len(body)+16+sha256.Size)
	b = append(b, sealedMagic...)
	b = binary.LittleEndian.AppendUint32(b, fileFormat)
	b = append(b, k.cluster[:]...)
	b = binary.LittleEndian.AppendUint64(b, k.version)
	b = binary.LittleEndian.AppendUint32(b, k.recovery.kdf.Time)
	b = binary.LittleEndian.AppendUint32(b, k.recovery.kdf.MemoryKiB)
	b = binary.LittleEndian.AppendUint32(b, uint32(k.recovery.kdf.Threads))
	b = append(b, k.recovery.salt[:]...)
	var salt [16]byte
	if err := read(random, salt[:]); err != nil {
		return nil, err
	}
	b = append(b, salt[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)+16))
	b = newAEAD(derive(k.recovery.key, salt[:], labelSealed)).Seal(b, make([]byte, 12), body, b)
	clear(body)
	sum := sha256.Sum256(b)
	if b = append(b, sum[:]...); len(b) > MaxBytes {
		return nil, fmt.Errorf("keyring: sealed copy of %d bytes", len(b))
	}
	return b, nil
}

// SealedInfo is what a sealed copy says without its code.
type SealedInfo struct {
	Cluster ClusterID
	Version uint64

	recovery recovery // without the key
	salt     [16]byte
}

// InspectSealed checks that a sealed copy is whole and says what it is. The
// error wraps [ErrDamaged] or [ErrNewer].
func InspectSealed(b []byte) (SealedInfo, error) {
	var s SealedInfo
	if len(b) < sealedHeader+16+sha256.Size || len(b) > MaxBytes || string(b[:8]) != sealedMagic {
		return s, damaged("no sealed copy of a keyring")
	}
	if f := binary.LittleEndian.Uint32(b[8:]); f != fileFormat {
		return s, fmt.Errorf("%w (format %d)", ErrNewer, f)
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !hmac.Equal(sum[:], b[end:]) {
		return s, damaged("checksum of a sealed copy")
	}
	if int64(binary.LittleEndian.Uint32(b[sealedHeader-4:])) != int64(end-sealedHeader) {
		return s, damaged("length of a sealed copy")
	}
	copy(s.Cluster[:], b[12:])
	s.Version = binary.LittleEndian.Uint64(b[28:])
	var err error
	s.recovery.kdf, err = kdfOf(uint64(binary.LittleEndian.Uint32(b[36:])),
		uint64(binary.LittleEndian.Uint32(b[40:])), uint64(binary.LittleEndian.Uint32(b[44:])))
	copy(s.recovery.salt[:], b[48:])
	copy(s.salt[:], b[64:])
	return s, err
}

// OpenSealed opens a sealed copy with the recovery code. The error wraps
// [ErrMistyped], [ErrWrongCode], [ErrDamaged] or [ErrNewer]. It takes as long
// and as much memory as the key derivation, 64 MiB by default.
//
// The copy of a drive lacks that drive's store key: see [Merge].
func OpenSealed(b []byte, code string) (*Keyring, error) {
	symbols, err := parseCode(code)
	if err != nil {
		return nil, err
	}
	info, err := InspectSealed(b)
	if err != nil {
		return nil, err
	}
	key := info.recovery.kdf.key(symbols, info.recovery.salt)
	sealed := b[sealedHeader : len(b)-sha256.Size]
	body, err := newAEAD(derive(key, info.salt[:], labelSealed)).Open(nil, make([]byte, 12), sealed, b[:sealedHeader])
	if err != nil {
		return nil, ErrWrongCode
	}
	k, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	if k.cluster != info.Cluster || k.version != info.Version || k.recovery.key != key {
		return nil, damaged("header and content of a sealed copy differ")
	}
	return k, nil
}

const sealedPrefix = "keyring.sealed."

// SealedName is the name of the sealed copy of a version in the directory of a
// drive.
func SealedName(version uint64) string { return sealedPrefix + strconv.FormatUint(version, 10) }

// ParseSealedName returns the version of a sealed copy by its name. It reports
// false for other names.
func ParseSealedName(name string) (version uint64, ok bool) {
	digits, found := strings.CutPrefix(name, sealedPrefix)
	version, err := strconv.ParseUint(digits, 10, 64)
	return version, found && err == nil && version > 0 && SealedName(version) == name
}
