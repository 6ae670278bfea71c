// Package snapshot moves the rows of one metadata group from one store to
// another.
//
// The sender opens an [Export] of the group in its state Pebble and asks it for
// pieces, each a sorted table of at most [PieceBytes] that lies in memory. The
// receiver begins a [Receive] in its [Stage], where each piece is verified and
// made durable, so that after a broken connection or a restart the transfer
// goes on with the next piece as long as the sender still holds the same
// Export. When all pieces are there, [Receive.Complete] reads all of them back
// and verifies them once more; [Install] then puts them into the state Pebble
// of the receiver in place of what it held of the group.
//
// # What protects what
//
// Every piece carries the SHA-256 of its bytes and a chain: the SHA-256 over
// the chain of the piece before it and all that its head says, begun with the
// header of the snapshot. So a piece that is damaged, out of order, of another
// snapshot or told about wrongly is refused when it comes. The receiver also
// opens each table: it must begin and end at the keys that its head names, all
// of them in the group.
//
// # Excision takes rows from open snapshots, too
//
// Pebble's excision, and thereby [Install], removes the group's rows from
// pebble.Snapshots that are open in the receiving store: read through such a
// snapshot, the group is empty afterwards. Only iterators that were open before
// still see the rows. The caller must therefore let no reader of that group use
// a snapshot that is older than the installation; an Export holds one iterator
// from its beginning to its end, and is safe.
//
// FORMAT.md describes what is sent and what lies in the stage.
package snapshot

import "errors"

// Failures that callers branch on.
var (
	// ErrCorrupt says that a message, a piece or a staged file is not what its
	// checksum says. Send the piece again, or begin a new snapshot.
	ErrCorrupt = errors.New("snapshot is damaged")

	// ErrForeign says that a piece or position is of another snapshot, or a
	// table of another group.
	ErrForeign = errors.New("not of this snapshot")

	// ErrOrder says that a piece came that is not the next one. Go on from
	// the receiver's position.
	ErrOrder = errors.New("snapshot piece out of order")

	// ErrVersion says that a later version of the program wrote it.
	ErrVersion = errors.New("snapshot is of an unknown format version: use the newer version of ruche")

	// ErrIncomplete says that pieces are missing.
	ErrIncomplete = errors.New("snapshot is not complete")

	// ErrFull says that there is no room for the snapshot. What is staged
	// stays, and the transfer can go on once there is room.
	ErrFull = errors.New("no room for the snapshot: free space on the file system of the metadata")

	// ErrClosed says that the export or the reception has ended, or that a
	// newer snapshot of the group has taken its place.
	ErrClosed = errors.New("snapshot transfer has ended")

	// ErrUnknown says that no complete snapshot of that id is staged.
	ErrUnknown = errors.New("snapshot is not staged")
)
