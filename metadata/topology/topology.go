// Package topology names the places of a cluster: sites, nodes and drives.
//
// It holds values and pure predicates only. A [Site] is a datacentre campus,
// the failure domain that may burn or lose power as a whole; a [Node] is a
// process with drives at one site; a [Drive] is one directory tree on one
// device. Identity is by UUID: a drive keeps its id whatever the order, slot
// or path it is mounted at.
package topology

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// DriveID is the random UUID a drive received when it was formatted. The zero
// value names no drive.
type DriveID [16]byte

// NodeID is the random UUID of a node. The zero value names no node.
type NodeID [16]byte

// SiteID is the short name of a site, such as "par1".
type SiteID string

// String returns the id in the usual form of a UUID.
func (d DriveID) String() string { return uuid(d) }

// IsZero reports whether d names no drive.
func (d DriveID) IsZero() bool { return d == DriveID{} }

// MarshalText returns the id in the usual form of a UUID.
func (d DriveID) MarshalText() ([]byte, error) { return []byte(uuid(d)), nil }

// UnmarshalText parses the usual form of a UUID.
func (d *DriveID) UnmarshalText(text []byte) error { return parseUUID(d[:], string(text)) }

// ParseDriveID parses the usual form of a UUID.
func ParseDriveID(s string) (DriveID, error) {
	var d DriveID
	return d, parseUUID(d[:], s)
}

// String returns the id in the usual form of a UUID.
func (n NodeID) String() string { return uuid(n) }

// IsZero reports whether n names no node.
func (n NodeID) IsZero() bool { return n == NodeID{} }

// MarshalText returns the id in the usual form of a UUID.
func (n NodeID) MarshalText() ([]byte, error) { return []byte(uuid(n)), nil }

// UnmarshalText parses the usual form of a UUID.
func (n *NodeID) UnmarshalText(text []byte) error { return parseUUID(n[:], string(text)) }

// DriveState says what may be done with a drive. The values are stored.
type DriveState uint8

const (
	// DriveActive drives are read and written.
	DriveActive DriveState = 1
	// DriveDraining drives are read; nothing new is placed there.
	DriveDraining DriveState = 2
	// DriveRetired drives are gone for good; their ids are never used again.
	DriveRetired DriveState = 3
)

// String names the state in lower case.
func (s DriveState) String() string {
	switch s {
	case DriveActive:
		return "active"
	case DriveDraining:
		return "draining"
	case DriveRetired:
		return "retired"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Drive is what the cluster knows of one drive.
type Drive struct {
	ID            DriveID
	Node          NodeID
	Site          SiteID
	Device        string // name of the device it lies on, for failure domains; empty if unknown
	CapacityBytes int64  // weight in placement
	State         DriveState

	Unknown string // fields of later versions, kept as they came
}

// Node is a process with drives at one site.
type Node struct {
	ID   NodeID
	Site SiteID
}

func uuid(b [16]byte) string {
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func parseUUID(dst []byte, s string) error {
	h := strings.ReplaceAll(s, "-", "")
	if len(h) != 32 {
		return fmt.Errorf("topology: %q is not a UUID", s)
	}
	if _, err := hex.Decode(dst, []byte(h)); err != nil {
		return fmt.Errorf("topology: %q is not a UUID", s)
	}
	return nil
}
