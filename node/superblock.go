package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// Superblock says whose drive a directory is. It is kept twice and written in
// turn, so that a torn write leaves the older one.
//
// A file is 4,096 bytes: magic "RcSB", format (4 bytes), length of the fields
// (4 bytes), fields as tag (1 byte), length (1 byte) and value, CRC32C of all
// before it (4 bytes), zeros. Integers are little-endian. Unknown tags are kept.
type Superblock struct {
	Sequence    uint64 // of two valid copies the one with the higher sequence counts
	Cluster     ClusterID
	Drive       topology.DriveID
	Node        topology.NodeID
	Site        topology.SiteID // at most 255 bytes
	Incarnation uint64          // raised when the drive is admitted anew; copies made before are refused

	// Compatible features may be ignored, ReadOnly ones forbid writing and
	// Incompatible ones opening to a program that does not know them.
	Compatible, ReadOnly, Incompatible uint64

	HighestEpoch uint64 // the highest epoch seen in any record
	Lives        uint64 // how often the drive was opened

	// Fenced says why the drive was fenced; the next start reads everything
	// that its index is made of anew. Cut to 255 bytes.
	Fenced string

	unknown []byte
}

const (
	superblockBytes  = 4096
	superblockFormat = 1

	knownReadOnly     = uint64(0)
	knownIncompatible = uint64(0)
)

const (
	superSequence = iota + 1
	superCluster
	superDrive
	superNode
	superSite
	superIncarnation
	superCompatible
	superReadOnly
	superIncompatible
	superHighestEpoch
	superLives
	superFenced
)

var errBadSuperblock = errors.New("damaged superblock")

// encode returns the stored form.
func (s *Superblock) encode() []byte {
	b := append(make([]byte, 0, superblockBytes), "RcSB"...)
	b = binary.LittleEndian.AppendUint32(b, superblockFormat)
	b = append(b, 0, 0, 0, 0)
	number := func(tag byte, v uint64) {
		b = binary.LittleEndian.AppendUint64(append(b, tag, 8), v)
	}
	bytes := func(tag byte, v []byte) {
		v = v[:min(len(v), 255)]
		b = append(append(b, tag, byte(len(v))), v...)
	}
	number(superSequence, s.Sequence)
	bytes(superCluster, s.Cluster[:])
	bytes(superDrive, s.Drive[:])
	bytes(superNode, s.Node[:])
	bytes(superSite, []byte(s.Site))
	number(superIncarnation, s.Incarnation)
	number(superCompatible, s.Compatible)
	number(superReadOnly, s.ReadOnly)
	number(superIncompatible, s.Incompatible)
	number(superHighestEpoch, s.HighestEpoch)
	number(superLives, s.Lives)
	bytes(superFenced, []byte(s.Fenced))
	b = append(b, s.unknown...)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-12))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b[:superblockBytes]
}

// parseSuperblock parses what encode returns.
func parseSuperblock(b []byte) (*Superblock, error) {
	if len(b) < 16 || string(b[:4]) != "RcSB" {
		return nil, fmt.Errorf("%w: no superblock", errBadSuperblock)
	}
	length := int64(binary.LittleEndian.Uint32(b[8:]))
	if length+16 > int64(min(len(b), superblockBytes)) {
		return nil, fmt.Errorf("%w: %d bytes of fields", errBadSuperblock, length)
	}
	end := 12 + int(length)
	if crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, fmt.Errorf("%w: checksum", errBadSuperblock)
	}
	if f := binary.LittleEndian.Uint32(b[4:]); f != superblockFormat {
		return nil, fmt.Errorf("%w: superblock of format %d", ErrNewerFormat, f)
	}
	s := new(Superblock)
	for fields := b[12:end]; len(fields) > 0; {
		if len(fields) < 2 || len(fields) < 2+int(fields[1]) {
			return nil, fmt.Errorf("%w: field runs over the end", errBadSuperblock)
		}
		n := 2 + int(fields[1])
		if err := s.set(fields[0], fields[2:n], fields[:n]); err != nil {
			return nil, err
		}
		fields = fields[n:]
	}
	return s, nil
}

func (s *Superblock) set(tag byte, v, field []byte) error {
	numbers := map[byte]*uint64{
		superSequence: &s.Sequence, superIncarnation: &s.Incarnation, superCompatible: &s.Compatible,
		superReadOnly: &s.ReadOnly, superIncompatible: &s.Incompatible,
		superHighestEpoch: &s.HighestEpoch, superLives: &s.Lives,
	}
	ids := map[byte]*[16]byte{
		superCluster: (*[16]byte)(&s.Cluster), superDrive: (*[16]byte)(&s.Drive), superNode: (*[16]byte)(&s.Node),
	}
	switch {
	case numbers[tag] != nil && len(v) == 8:
		*numbers[tag] = binary.LittleEndian.Uint64(v)
	case ids[tag] != nil && len(v) == 16:
		copy(ids[tag][:], v)
	case tag == superSite:
		s.Site = topology.SiteID(v)
	case tag == superFenced:
		s.Fenced = string(v)
	case numbers[tag] != nil || ids[tag] != nil:
		return fmt.Errorf("%w: field %d of %d bytes", errBadSuperblock, tag, len(v))
	default:
		s.unknown = append(s.unknown, field...)
	}
	return nil
}

func superblockPath(fs vfs.FS, path string, sequence uint64) string {
	return fs.PathJoin(path, fmt.Sprintf("superblock.%d", sequence%2))
}

// readSuperblock returns the newer of the two superblocks of a directory. The
// error wraps ErrUnformatted if there is neither.
func readSuperblock(fs vfs.FS, path string) (*Superblock, error) {
	var newest *Superblock
	var errs []error
	missing := 0
	for i := range uint64(2) {
		s, err := readOneSuperblock(fs, superblockPath(fs, path, i))
		switch {
		case oserror.IsNotExist(err):
			missing++
		case err != nil:
			errs = append(errs, err)
		case newest == nil || s.Sequence > newest.Sequence:
			newest = s
		}
	}
	for _, err := range errs {
		if errors.Is(err, ErrNewerFormat) {
			return nil, fmt.Errorf("node: %s: %w", path, err)
		}
	}
	switch {
	case newest != nil:
		return newest, nil
	case missing == 2:
		return nil, fmt.Errorf("node: %s: %w", path, ErrUnformatted)
	}
	return nil, fmt.Errorf("node: %s: %w: %w", path, ErrSuperblock, errors.Join(errs...))
}

func readOneSuperblock(fs vfs.FS, name string) (*Superblock, error) {
	b, err := readFile(fs, name, superblockBytes)
	if err != nil {
		return nil, err
	}
	return parseSuperblock(b)
}

// writeSuperblock replaces the older copy of the superblock of a directory.
func writeSuperblock(fs vfs.FS, path string, s *Superblock) error {
	name := superblockPath(fs, path, s.Sequence)
	_, err := fs.Stat(name)
	created := oserror.IsNotExist(err)
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(s.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if created {
		return syncDir(fs, path)
	}
	return nil
}

// readFile reads a whole file of at most limit bytes.
func readFile(fs vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return b, nil
}

// errDirSync says that the sync of a directory failed: entries in it may be
// lost, and a sync that is tried again may succeed without them.
var errDirSync = errors.New("directory sync failed")

// syncDir makes the entries of a directory durable. It fails with errDirSync
// unless the directory could not even be opened.
func syncDir(fs vfs.FS, path string) error {
	d, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("%w: %w", errDirSync, err)
	}
	return nil
}
