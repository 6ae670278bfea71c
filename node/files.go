package node

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/node/segment"
)

// fileCache keeps segment files open for reading, up to a number that all
// drives of a node share. Files in use do not count against it and are closed
// when their last user is done.
type fileCache struct {
	limit int

	mu    sync.Mutex // guards the fields below and refs, elem and gone of the files
	files map[fileID]*openFile
	idle  *list.List // of *openFile nobody uses, the one to be closed first in front
}

type fileID struct {
	drive   *Drive
	dir     uint32
	segment segment.ID
}

type openFile struct {
	vfs.File
	id    fileID
	refs  int
	elem  *list.Element // in idle
	gone  bool          // not in files any more
	sound atomic.Bool   // the header of an own file was checked
}

func newFileCache(limit int) *fileCache {
	return &fileCache{limit: limit, files: map[fileID]*openFile{}, idle: list.New()}
}

// get opens a segment file, or takes it from the cache. It must be given back
// with put.
func (c *fileCache) get(d *Drive, dir uint32, id segment.ID) (*openFile, error) {
	key := fileID{d, dir, id}
	if f := c.take(key); f != nil {
		return f, nil
	}
	file, err := d.fs.Open(d.layout.file(dir, id))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &openFile{File: file, id: key, refs: 1}
	if c.files[key] != nil {
		f.gone = true // somebody was faster; this one is closed after use
	} else {
		c.files[key] = f
	}
	return f, nil
}

func (c *fileCache) take(key fileID) *openFile {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[key]
	if f == nil {
		return nil
	}
	f.refs++
	if f.elem != nil {
		c.idle.Remove(f.elem)
		f.elem = nil
	}
	return f
}

func (c *fileCache) put(f *openFile) {
	c.mu.Lock()
	var closing []*openFile
	if f.refs--; f.refs == 0 {
		if f.gone {
			closing = append(closing, f)
		} else {
			f.elem = c.idle.PushBack(f)
		}
	}
	for c.idle.Len() > 0 && len(c.files) > c.limit {
		closing = append(closing, c.forget(c.idle.Front().Value.(*openFile)))
	}
	c.mu.Unlock()
	closeAll(closing)
}

// forget takes an idle file out. The caller holds mu and closes it.
func (c *fileCache) forget(f *openFile) *openFile {
	c.idle.Remove(f.elem)
	f.elem, f.gone = nil, true
	delete(c.files, f.id)
	return f
}

// drop forgets a file that was removed.
func (c *fileCache) drop(d *Drive, dir uint32, id segment.ID) {
	c.mu.Lock()
	var closing []*openFile
	if f := c.files[fileID{d, dir, id}]; f != nil {
		closing = c.release(f, closing)
	}
	c.mu.Unlock()
	closeAll(closing)
}

// dropDrive forgets all files of a drive.
func (c *fileCache) dropDrive(d *Drive) {
	c.mu.Lock()
	var closing []*openFile
	for id, f := range c.files {
		if id.drive == d {
			closing = c.release(f, closing)
		}
	}
	c.mu.Unlock()
	closeAll(closing)
}

// release takes a file out; if nobody uses it, it is appended to closing. The
// caller holds mu.
func (c *fileCache) release(f *openFile, closing []*openFile) []*openFile {
	if f.refs == 0 {
		return append(closing, c.forget(f))
	}
	f.gone = true
	delete(c.files, f.id)
	return closing
}

// closeAll closes files that were read only: there is nothing to lose.
func closeAll(files []*openFile) {
	for _, f := range files {
		_ = f.Close()
	}
}

// count returns how many files are open.
func (c *fileCache) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.files)
}
