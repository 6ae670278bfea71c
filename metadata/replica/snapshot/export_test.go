package snapshot

import "github.com/ruche-storage/ruche/metadata"

// ChainOf is the chain of a first piece, as a sender computes it.
func ChainOf(h *Header, p *Piece) metadata.Sum { return h.Start().next(p).Chain }
