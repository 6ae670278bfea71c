package server

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/node"
)

// shards is the node of this process as the engine sees it.
type shards struct{ *node.Node }

var _ object.Shards = shards{}

// stored is what all drives hold.
func stored(n *node.Node) (bytes, count int64) {
	for _, s := range n.Status() {
		bytes += s.UsedBytes
		count += s.Shards
	}
	return bytes, count
}

// recovered reports whether a drive had to make its index anew when it was
// opened, or met files that it could not read: then shards may be missing of
// which no row is left.
func recovered(all []node.DriveStatus) bool {
	for i := range all {
		if r := &all[i].Recovery; r.IndexRebuilt || r.Damaged > 0 || r.Unreadable > 0 {
			return true
		}
	}
	return false
}

// pressed reports whether a drive is so full that what is deleted should be
// freed at once: less than a tenth is free.
func pressed(n *node.Node) bool {
	for _, s := range n.Status() {
		if s.State == node.StateFull || (s.CapacityBytes > 0 && s.FreeBytes < s.CapacityBytes/10) {
			return true
		}
	}
	return false
}

// canonicalID makes the canonical user id of an account: 64 hexadecimal
// digits.
func canonicalID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
