package object

import (
	"context"
	"errors"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/ruche-storage/ruche/metadata"
)

// Get opens an object. With ErrNotModified, metadata.ErrPreconditionFailed and
// ErrInvalidRange the returned object carries Info and no body; it need not be
// closed then.
func (e *Engine) Get(ctx context.Context, req *GetRequest) (*Object, error) {
	ctx, l, err := e.epochs.reader(ctx, e.options.Now())
	if err != nil {
		return nil, err
	}
	var o *Object
	err = e.read(ctx, req.Bucket, func(b *bucket) error {
		o, err = e.get(ctx, b, l, req)
		return err
	})
	if err != nil || o.body == nil {
		l.release()
	}
	return o, err
}

func (e *Engine) get(ctx context.Context, b *bucket, l *lease, req *GetRequest) (*Object, error) {
	opened := &metadata.Opened{}
	if req.HeadOnly {
		v, err := e.meta.Version(ctx, b.ref(), req.Key, req.VersionID)
		if err != nil {
			return nil, err
		}
		opened.Version = *v
	} else {
		var err error
		if opened, err = e.meta.Open(ctx, b.ref(), req.Key, req.VersionID); err != nil {
			return nil, err
		}
	}
	v := &opened.Version
	if v.Marker {
		return nil, metadata.ErrNoSuchKey
	}
	if err := e.checkVersion(b, req.Key, v); err != nil {
		return nil, err
	}
	o := &Object{Info: info(req.Key, v), version: v}
	if err := req.Conditions.check(&o.Info); err != nil {
		return o, err
	}
	body := &objectBody{e: e, ctx: ctx, bucket: b, version: v, opened: opened, lease: l}
	if err := body.choose(o, req); err != nil {
		return o, err
	}
	if req.HeadOnly {
		return o, nil
	}
	if err := body.open(o.Offset, o.Length); err != nil {
		return nil, err
	}
	e.counters.reading.Add(1)
	o.body = body
	return o, nil
}

// info is what clients are told of a version.
func info(key string, v *metadata.Version) Info {
	i := Info{
		Key: key, Bytes: v.Bytes, ETag: v.ETag, LastModified: v.Modified(),
		VersionID: v.VersionID(), Null: v.Null, Checksum: v.Checksum,
		Attributes: Attributes{Headers: v.Headers, User: v.User, StorageClass: v.Class},
	}
	if i.StorageClass == "" {
		i.StorageClass = standardClass
	}
	if v.List != nil {
		i.Parts = int(v.List.Parts)
	}
	return i
}

// check evaluates the conditions of a read as RFC 9110, section 13.2.2, and AWS
// order them: If-Match decides alone over If-Unmodified-Since, If-None-Match
// over If-Modified-Since. Dates have whole seconds.
func (c *ReadConditions) check(i *Info) error {
	modified := i.LastModified.Truncate(time.Second)
	switch {
	case len(c.IfMatch) > 0:
		if !matches(c.IfMatch, i.ETag) {
			return metadata.ErrPreconditionFailed
		}
	case !c.IfUnmodifiedSince.IsZero():
		if modified.After(c.IfUnmodifiedSince) {
			return metadata.ErrPreconditionFailed
		}
	}
	switch {
	case len(c.IfNoneMatch) > 0:
		if matches(c.IfNoneMatch, i.ETag) {
			return ErrNotModified
		}
	case !c.IfModifiedSince.IsZero():
		if !modified.After(c.IfModifiedSince) {
			return ErrNotModified
		}
	}
	return nil
}

func matches(etags []string, etag string) bool {
	return slices.Contains(etags, "*") || slices.Contains(etags, etag)
}

// resolve finds the bytes a range selects of an object of so many.
func (r Range) resolve(bytes int64) (off, n int64, partial bool, err error) {
	switch r.Kind {
	case RangeFromTo:
		if r.First < 0 || r.First >= bytes || r.Last < r.First {
			return 0, 0, false, ErrInvalidRange
		}
		return r.First, min(r.Last, bytes-1) - r.First + 1, true, nil
	case RangeFrom:
		if r.First < 0 || r.First >= bytes {
			return 0, 0, false, ErrInvalidRange
		}
		return r.First, bytes - r.First, true, nil
	case RangeSuffix:
		if r.Suffix <= 0 {
			return 0, 0, false, ErrInvalidRange
		}
		if bytes == 0 {
			return 0, 0, false, nil // AWS answers the whole, which is nothing
		}
		n := min(r.Suffix, bytes)
		return bytes - n, n, true, nil
	}
	return 0, bytes, false, nil
}

// objectBody yields the selected bytes of a version, part by part.
type objectBody struct {
	e       *Engine
	ctx     context.Context
	bucket  *bucket
	version *metadata.Version
	opened  *metadata.Opened
	lease   *lease

	page     int             // of the part list, index of parts
	parts    []metadata.Part // of that page
	at       int             // next part in parts
	off      int64           // first byte wanted of the next part
	left     int64           // bytes wanted that no part reader has
	current  *partReader
	rest     []byte // of a run, for Read
	finished bool
	err      error
}

// choose sets which bytes of the object were asked for.
func (r *objectBody) choose(o *Object, req *GetRequest) (err error) {
	if req.PartNumber == 0 {
		o.Offset, o.Length, o.Partial, err = req.Range.resolve(o.Bytes)
		return err
	}
	o.Partial = true
	list := r.version.List
	if list == nil {
		o.PartsCount, o.Length = 1, o.Bytes
		if req.PartNumber != 1 {
			return ErrInvalidPartNumber
		}
		return nil
	}
	o.PartsCount = int(list.Parts)
	number := uint32(req.PartNumber)
	page := sort.Search(len(list.Pages), func(i int) bool { return list.Pages[i].FirstNumber > number }) - 1
	if page < 0 {
		return ErrInvalidPartNumber
	}
	if err := r.load(page); err != nil {
		return err
	}
	off := list.Pages[page].Offset
	for i := range r.parts {
		if r.parts[i].Number == number {
			o.Offset, o.Length = off, r.parts[i].Bytes
			return nil
		}
		off += r.parts[i].Bytes
	}
	return ErrInvalidPartNumber
}

// load reads and verifies a page of the part list.
func (r *objectBody) load(page int) error {
	if r.parts != nil && r.page == page {
		return nil
	}
	parts, err := r.e.listPage(r.ctx, r.bucket, r.version, page)
	if err != nil {
		return err
	}
	r.page, r.parts = page, parts
	return nil
}

// listPage returns the verified parts of a page of a version's part list.
func (e *Engine) listPage(ctx context.Context, b *bucket, v *metadata.Version, page int) ([]metadata.Part, error) {
	parts, err := e.meta.ListPage(ctx, b.ref(), v.List.ID, page)
	if err != nil {
		return nil, err
	}
	if err := e.checkPage(b, v, page, parts); err != nil {
		return nil, err
	}
	return parts, nil
}

// open finds the part that holds byte off and begins to read it, so that the
// commonest failures are known before anything was answered.
func (r *objectBody) open(off, n int64) error {
	r.left = n
	if n == 0 {
		return nil
	}
	if r.version.List == nil {
		r.parts, r.at, r.off = []metadata.Part{*r.version.Part}, 0, off
	} else {
		pages := r.version.List.Pages
		page := sort.Search(len(pages), func(i int) bool { return pages[i].Offset > off }) - 1
		if page < 0 {
			return ErrDamaged
		}
		if err := r.load(page); err != nil {
			return err
		}
		r.at, r.off = 0, off-pages[page].Offset
		for r.at < len(r.parts) && r.off >= r.parts[r.at].Bytes {
			r.off -= r.parts[r.at].Bytes
			r.at++
		}
	}
	err := r.nextPart()
	if err == nil {
		err = r.prime()
	}
	if err != nil {
		r.closeReaders()
	}
	return err
}

// prime waits for the first run: an object that cannot be read is then an
// error before the reply has begun.
func (r *objectBody) prime() error {
	run, err := r.run()
	if err == nil {
		r.rest = run
	}
	return err
}

// nextPart begins the next part that has bytes.
func (r *objectBody) nextPart() error {
	for r.at >= len(r.parts) || r.parts[r.at].Bytes == 0 {
		if r.at++; r.at < len(r.parts) {
			continue
		}
		if r.version.List == nil || r.page+1 >= len(r.version.List.Pages) {
			return io.ErrUnexpectedEOF // the lengths were checked: left is 0 before
		}
		if err := r.load(r.page + 1); err != nil {
			return err
		}
		r.at = 0
	}
	p := &r.parts[r.at]
	n := min(r.left, p.Bytes-r.off)
	var chunks []metadata.Chunk
	var inline []byte
	if r.version.List == nil {
		chunks, inline = r.opened.Chunks, r.opened.Inline
	} else if p.Body == metadata.BodyInline {
		var err error
		if inline, err = r.e.meta.Inline(r.ctx, r.bucket.ref(), p.ID); err != nil {
			return err
		}
	}
	current, err := r.e.openPart(r.ctx, r.bucket, p, chunks, inline, r.off, n)
	if err != nil {
		return err
	}
	r.current = current
	r.left -= n
	r.off = 0
	r.at++
	return nil
}

// run returns the next run of plain bytes, valid until the next call.
func (r *objectBody) run() ([]byte, error) {
	for {
		if r.err != nil {
			return nil, r.err
		}
		if r.current != nil {
			run, err := r.current.next()
			if err == nil {
				r.e.counters.bytesOut.Add(uint64(len(run)))
				return run, nil
			}
			r.current.close()
			r.current = nil
			if err != io.EOF {
				r.err = err
				continue
			}
		}
		if r.left == 0 {
			r.err = io.EOF
			continue
		}
		r.err = r.nextPart()
	}
}

// Read implements io.Reader.
func (r *objectBody) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		run, err := r.run()
		if err != nil {
			return 0, err
		}
		r.rest = run
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo writes what is left to w, without copying it in between.
func (r *objectBody) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if len(r.rest) > 0 {
			n, err := w.Write(r.rest)
			written += int64(n)
			r.rest = r.rest[n:]
			if err != nil {
				return written, err
			}
		}
		run, err := r.run()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		r.rest = run
	}
}

func (r *objectBody) closeReaders() {
	if r.current != nil {
		r.current.close()
		r.current = nil
	}
	r.rest = nil
}

// Close gives memory and lease back. It may be called more than once.
func (r *objectBody) Close() error {
	if r.finished {
		return nil
	}
	r.finished = true
	r.closeReaders()
	r.err = errClosedObject
	r.lease.release()
	r.e.counters.reading.Add(-1)
	return nil
}

var errClosedObject = errors.New("object: read after Close")

// Read reads the selected bytes. An object without body has none.
func (o *Object) Read(p []byte) (int, error) {
	if o.body == nil {
		return 0, io.EOF
	}
	return o.body.Read(p)
}

// WriteTo writes the selected bytes to w, in the runs in which they were
// opened: nothing is copied in between.
func (o *Object) WriteTo(w io.Writer) (int64, error) {
	if to, ok := o.body.(io.WriterTo); ok {
		return to.WriteTo(w)
	}
	return 0, nil
}

// Close ends the reading. It must be called, also after an error.
func (o *Object) Close() error {
	if o == nil || o.body == nil {
		return nil
	}
	return o.body.Close()
}
