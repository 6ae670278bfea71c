package object

import (
	"encoding/binary"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// Labels of the messages that are MACed. They are part of the format.
const (
	labelVersion = "ruche 1 version"
	labelPage    = "ruche 1 part page"
)

// Kinds of versions within the message of a version's MAC.
const (
	bindPart = 1 // one part
	bindList = 2 // a part list, by its pages
)

// partMessageBytes is the length of what [appendPart] appends.
const partMessageBytes = 4 + 16 + 8 + 8 + 1 + 1 + 8 + 1 + 16 + 8

// appendPart encodes what a MAC binds of a part: all that decides which bytes
// are read and how they are opened. FORMAT.md has the table.
func appendPart(b []byte, p *metadata.Part) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, p.Number)
	b = append(b, p.ID[:]...)
	b = le.AppendUint64(b, uint64(p.Bytes))
	b = le.AppendUint64(b, uint64(p.SealedBytes))
	b = append(b, byte(p.Body), byte(p.Compression))
	b = le.AppendUint64(b, uint64(p.IndexBytes))
	sealed := byte(0)
	if p.Sealed {
		sealed = 1
	}
	b = append(b, sealed)
	b = append(b, p.Key[:]...)
	return le.AppendUint64(b, p.CRC64)
}

// versionMessage encodes what the MAC of a version binds: the bucket, the key
// of the object, the random half of the version id, and the part or the pages
// of the part list.
func versionMessage(bucket metadata.BucketID, key string, v *metadata.Version) []byte {
	b := make([]byte, 0, 256)
	b = append(b, labelVersion...)
	b = append(b, bucket[:]...)
	b = appendText(b, key)
	b = append(b, v.Random[:]...)
	if v.List == nil {
		b = append(b, bindPart)
		return appendPart(b, v.Part)
	}
	le := binary.LittleEndian
	b = append(b, bindList)
	b = append(b, v.List.ID[:]...)
	b = le.AppendUint32(b, v.List.Parts)
	b = le.AppendUint64(b, uint64(v.Bytes))
	b = le.AppendUint32(b, uint32(len(v.List.Pages)))
	for i := range v.List.Pages {
		page := &v.List.Pages[i]
		b = le.AppendUint32(b, page.FirstNumber)
		b = le.AppendUint64(b, uint64(page.Offset))
		b = append(b, page.MAC[:]...)
	}
	return b
}

// pageMessage encodes what the MAC of a page of a part list binds.
func pageMessage(bucket metadata.BucketID, list metadata.UploadID, page int, parts []metadata.Part) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 64+len(parts)*partMessageBytes)
	b = append(b, labelPage...)
	b = append(b, bucket[:]...)
	b = append(b, list[:]...)
	b = le.AppendUint32(b, uint32(page))
	b = le.AppendUint32(b, uint32(len(parts)))
	for i := range parts {
		b = appendPart(b, &parts[i])
	}
	return b
}

// bindVersion sets the MAC of v. Without bucket key there is none.
func (b *bucket) bindVersion(key string, v *metadata.Version) {
	v.Key, v.MAC = metadata.KeyID{}, metadata.Sum{}
	if b.keys != nil {
		v.Key, v.MAC = b.row.Key, b.keys.MAC(versionMessage(b.row.ID, key, v))
	}
}

// checkVersion verifies the MAC of a version, and what later arithmetic relies
// on. Nothing of a version that fails is served.
func (e *Engine) checkVersion(b *bucket, key string, v *metadata.Version) error {
	switch {
	case v.Part == nil && v.List == nil, v.Part != nil && v.List != nil:
		return fmt.Errorf("object: version without one body: %w", ErrDamaged)
	case v.Part != nil && v.Part.Bytes != v.Bytes:
		return fmt.Errorf("object: version of %d bytes with a part of %d: %w", v.Bytes, v.Part.Bytes, ErrDamaged)
	case b.keys == nil:
		return nil
	case v.Key == b.row.Key && b.keys.VerifyMAC(versionMessage(b.row.ID, key, v), v.MAC):
		return nil
	}
	e.counters.macFailures.Add(1)
	e.log.Error("version does not match its MAC", "bucket", b.row.ID.String(), "order", v.Order)
	return fmt.Errorf("object: version does not match its MAC: %w", ErrDamaged)
}

// checkPage verifies a page of a part list against the version that names it.
func (e *Engine) checkPage(b *bucket, v *metadata.Version, page int, parts []metadata.Part) error {
	list := v.List
	want := int64(v.Bytes)
	if page+1 < len(list.Pages) {
		want = list.Pages[page+1].Offset
	}
	sum := list.Pages[page].Offset
	for i := range parts {
		sum += parts[i].Bytes
	}
	switch {
	case len(parts) == 0 || sum != want:
		return fmt.Errorf("object: page %d of a part list ends at %d instead of %d: %w", page, sum, want, ErrDamaged)
	case b.keys == nil || b.keys.VerifyMAC(pageMessage(b.row.ID, list.ID, page, parts), list.Pages[page].MAC):
		return nil
	}
	e.counters.macFailures.Add(1)
	e.log.Error("page of a part list does not match its MAC", "bucket", b.row.ID.String(), "list", list.ID.String(), "page", page)
	return fmt.Errorf("object: page of a part list does not match its MAC: %w", ErrDamaged)
}
