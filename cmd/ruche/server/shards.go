package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
	"github.com/ruche-storage/ruche/node"
)

// shards is the node of this process as the engine sees it. It only gives the
// writer its type.
type shards struct{ *node.Node }

var _ object.Shards = shards{}

// Create implements object.Shards.
func (s shards) Create(ctx context.Context, drive topology.DriveID, rec *metadata.Record, framedBytes int64) (object.ShardWriter, error) {
	w, err := s.Node.Create(ctx, drive, rec, framedBytes)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// canonicalID makes the canonical user id of an account: 64 hexadecimal
// digits.
func canonicalID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
