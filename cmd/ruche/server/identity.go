package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

const (
	// identityFormat 2 came with encrypted metadata, which an older program
	// would take for damaged.
	identityFormat      = 2
	identityFormatPlain = 1
	site                = topology.SiteID("site1") // of a store on one machine
)

// How far the first start came.
const (
	phaseStarting = "starting"
	phaseReady    = "ready"
)

// id128 is an id of 128 random bits, as hexadecimal digits in files.
type id128 [16]byte

// MarshalText implements encoding.TextMarshaler.
func (i id128) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(i[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *id128) UnmarshalText(text []byte) error {
	if len(text) != 32 {
		return fmt.Errorf("%q is not an id", text)
	}
	_, err := hex.Decode(i[:], text)
	return err
}

func (i id128) String() string { return hex.EncodeToString(i[:]) }

func newID() id128 {
	var i id128
	rand.Read(i[:]) // never fails
	return i
}

// identity is cluster.json: what this state directory is. It was chosen at the
// first start; the ids, Scheme and Encryption never change.
type identity struct {
	Format     int             `json:"format"`
	Phase      string          `json:"phase"`
	Cluster    id128           `json:"cluster"`
	Node       topology.NodeID `json:"node"`
	Scheme     string          `json:"scheme"`
	Encryption bool            `json:"encryption"`
	// Slots say which drive was last seen at which path. At the first start
	// they name the directories that were found empty and may be formatted.
	Slots []slot `json:"slots"`
	// Replacing are replacements that were begun. A start carries them on
	// until the placement names the new drive.
	Replacing []replacing `json:"replacing,omitempty"`
	// Absent are drives that were missing while others were written. What they
	// bring back is looked up anew before they are taken off.
	Absent []topology.DriveID `json:"absent,omitempty"`
	// Incarnations say how often each drive was opened by this store. A drive
	// that says less is a copy made earlier.
	Incarnations map[topology.DriveID]uint64 `json:"incarnations,omitempty"`
	// CollectionOff says why nothing was freed when that was decided last.
	CollectionOff admin.OffCause `json:"collection_off,omitempty"`
	// State is the store in this directory. It is missing if encryption is
	// off, and as long as its key is not needed.
	State *stateStore `json:"state_store,omitempty"`
}

// stateStore is what the keyring knows the stores in a state directory by.
type stateStore struct {
	ID topology.DriveID `json:"id"`
	// Keyed says that the key may be used: it is in the sealed keyring on more
	// than half of the drives, or nothing is stored yet.
	Keyed bool `json:"keyed"`
	// Whole says that no file is left there that is not encrypted. One without
	// the header of an encrypted file is damaged then.
	Whole bool `json:"whole"`
}

type slot struct {
	Path  string           `json:"path"`
	Drive topology.DriveID `json:"drive"`
}

type replacing struct {
	Path string           `json:"path"`
	Old  topology.DriveID `json:"old"`
}

// newIdentity chooses all ids of a new store.
func newIdentity(c *config.Config) (*identity, error) {
	scheme, err := c.StorageScheme()
	if err != nil {
		return nil, err
	}
	id := &identity{
		Format: identityFormat, Phase: phaseStarting,
		Cluster: newID(), Node: topology.NodeID(newID()),
		Scheme: scheme.String(), Encryption: c.Encryption == "on",
	}
	for _, path := range c.DrivePaths() {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		id.Slots = append(id.Slots, slot{Path: abs})
	}
	if id.Encryption {
		id.State = &stateStore{ID: newStoreID(), Keyed: true, Whole: true}
	}
	return id, nil
}

// newStoreID chooses the id of a store: a UUID of version 4, as drives have.
func newStoreID() topology.DriveID {
	id := topology.DriveID(newID())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// keyed reports whether what lies in the state directory is encrypted.
func (i *identity) keyed() bool { return i.State != nil && i.State.Keyed }

// readIdentity returns nil if there is no cluster.json.
func readIdentity(dir string) (*identity, error) {
	name := filepath.Join(dir, "cluster.json")
	text, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError("read "+name, err)
	}
	var id identity
	err = json.Unmarshal(text, &id)
	if err == nil && (id.Cluster == id128{} || id.Node.IsZero() || (id.Phase != phaseStarting && id.Phase != phaseReady)) {
		err = errors.New("ids are missing")
	}
	if err != nil {
		return nil, &StartError{Damaged, name, "restore the state directory from its backup", err}
	}
	if id.Format < identityFormatPlain || id.Format > identityFormat {
		return nil, &StartError{Damaged, fmt.Sprintf("%s has format %d, this program knows %d", name, id.Format, identityFormat), "start the version of ruche that wrote it", nil}
	}
	return &id, nil
}

func (i *identity) save(dir string) error {
	name := filepath.Join(dir, "cluster.json")
	if i.Format = identityFormatPlain; i.keyed() {
		i.Format = identityFormat
	}
	return fileError("write "+name, writeJSON(name, i, 0o600))
}

// scheme is the scheme that was chosen at the first start.
func (i *identity) scheme() (metadata.Scheme, error) {
	c := config.Config{Scheme: i.Scheme, Drives: make([]string, len(i.Slots))}
	return c.StorageScheme()
}

// at returns the drive that was last seen at path.
func (i *identity) at(path string) (topology.DriveID, bool) {
	n := slices.IndexFunc(i.Slots, func(s slot) bool { return s.Path == path })
	if n < 0 || i.Slots[n].Drive.IsZero() {
		return topology.DriveID{}, false
	}
	return i.Slots[n].Drive, true
}

// pathOf returns where a drive was last seen, "" if nowhere.
func (i *identity) pathOf(drive topology.DriveID) string {
	n := slices.IndexFunc(i.Slots, func(s slot) bool { return s.Drive == drive })
	if n < 0 {
		return ""
	}
	return i.Slots[n].Path
}

// incarnate notes which incarnation a drive is expected to have at least.
func (i *identity) incarnate(drive topology.DriveID, number uint64) {
	if i.Incarnations == nil {
		i.Incarnations = make(map[topology.DriveID]uint64)
	}
	i.Incarnations[drive] = number
}

// missing notes that a drive is absent, and reports whether that is new.
func (i *identity) missing(drive topology.DriveID) bool {
	if slices.Contains(i.Absent, drive) {
		return false
	}
	i.Absent = append(i.Absent, drive)
	return true
}

// place notes that a drive was seen at path.
func (i *identity) place(path string, drive topology.DriveID) {
	if known, ok := i.at(path); ok && known == drive {
		return
	}
	i.Slots = slices.DeleteFunc(i.Slots, func(s slot) bool { return s.Path == path || s.Drive == drive })
	i.Slots = append(i.Slots, slot{path, drive})
}

// check compares what was fixed at the first start with the settings.
func (i *identity) check(c *config.Config) error {
	if on := c.Encryption == "on"; on != i.Encryption {
		was := map[bool]string{true: "on", false: "off"}[i.Encryption]
		return &StartError{EncryptionChanged, fmt.Sprintf("encryption is %s in the settings and %s in what is stored", c.Encryption, was),
			"set encryption to " + was + "; to change it, copy the buckets to a new store", nil}
	}
	if c.Scheme != "" && c.Scheme != i.Scheme {
		return &StartError{SchemeChanged, fmt.Sprintf("scheme is %s in the settings and %s in what is stored", c.Scheme, i.Scheme),
			"set scheme to " + i.Scheme + " or leave it out", nil}
	}
	return nil
}
