package recovery

import (
	"context"

	"github.com/ruche-storage/ruche/gateway/manifest"
	"github.com/ruche-storage/ruche/metadata"
)

// commandBytes is what a command of parts is filled to, by an estimate that is
// above the encoded length.
const commandBytes = metadata.MaxRestoreBytes / 2

// chunkBytes is above the encoded length of a chunk's row without fields of
// later versions.
const chunkBytes = 128

// restoreVersion puts a version back: the parts of a list first, in as many
// commands as it takes, then the version that names them.
func restoreVersion(ctx context.Context, to Engine, b *bucket, m *manifest.Manifest) error {
	propose := func(cmd *metadata.Command) error {
		cmd.Group, cmd.Settings = b.row.Group, b.settings.Epoch
		return commit(ctx, to, cmd)
	}
	if m.Version.List != nil {
		if err := restoreList(b, m, propose); err != nil {
			return err
		}
	}
	return propose(&metadata.Command{Kind: metadata.KindRestoreVersion, RestoreVersion: &metadata.RestoreVersion{
		Bucket: b.row.ID, Key: m.Key, Version: *m.Version, Chunks: m.Chunks, Inline: m.Inline}})
}

// restoreList puts the pages of a part list and the bodies of its parts back.
func restoreList(b *bucket, m *manifest.Manifest, propose func(*metadata.Command) error) error {
	fresh := func() *metadata.RestoreParts {
		return &metadata.RestoreParts{Bucket: b.row.ID, Key: m.Key, List: m.Version.List.ID}
	}
	for page := 0; page*metadata.PartsPerPage < len(m.Parts); page++ {
		c := fresh()
		c.Page = uint32(page)
		for _, p := range m.Parts[page*metadata.PartsPerPage : min(len(m.Parts), (page+1)*metadata.PartsPerPage)] {
			c.Parts = append(c.Parts, p.Row)
		}
		if err := propose(&metadata.Command{Kind: metadata.KindRestoreParts, RestoreParts: c}); err != nil {
			return err
		}
	}
	c, size := fresh(), 0
	for i := range m.Parts {
		p := &m.Parts[i]
		if p.Row.Body == metadata.BodyEmpty {
			continue
		}
		if size > 0 && size+len(p.Inline)+chunkBytes*len(p.Chunks) > commandBytes {
			if err := propose(&metadata.Command{Kind: metadata.KindRestoreParts, RestoreParts: c}); err != nil {
				return err
			}
			c, size = fresh(), 0
		}
		c.Bodies = append(c.Bodies, metadata.PartBody{Part: p.Row.ID, Chunks: p.Chunks, Inline: p.Inline})
		size += 64 + len(p.Inline) + chunkBytes*len(p.Chunks)
	}
	if len(c.Bodies) == 0 {
		return nil
	}
	return propose(&metadata.Command{Kind: metadata.KindRestoreParts, RestoreParts: c})
}

// room bounds the bytes of manifests that are being restored. One goroutine
// takes, any may give back.
type room struct{ tokens chan struct{} }

// roomToken is what one token stands for. Decoded, a manifest is a few times
// as long as encoded.
const roomToken = 16 << 10

func newRoom(memory int) room { return room{make(chan struct{}, max(memory/roomToken, 1))} }

// weigh returns the tokens for a manifest: never more than there are.
func (r room) weigh(pieces [][]byte) int {
	n := 0
	for _, p := range pieces {
		n += 4 * len(p)
	}
	return min(1+n/roomToken, cap(r.tokens))
}

func (r room) take(ctx context.Context, n int) error {
	for range n {
		select {
		case r.tokens <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (r room) give(n int) {
	for range n {
		<-r.tokens
	}
}
