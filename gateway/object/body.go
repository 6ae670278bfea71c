package object

import (
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/minio/crc64nvme"
	md5simd "github.com/minio/md5-simd"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/metadata"
)

// hashPool keeps the hashes of bodies for another use.
type hashPool struct {
	lanes lanes
	md5   sync.Pool
	extra [8]sync.Pool // by algorithm
}

func (p *hashPool) getExtra(a metadata.ChecksumAlgorithm) hash.Hash {
	if h, ok := p.extra[a].Get().(hash.Hash); ok {
		h.Reset()
		return h
	}
	return checksum.New(a)
}

// hashedBody reads a body once and hashes what it yields, in the buffers of
// its reader: the MD5 of the ETag, our CRC64-NVME, and the client's checksum
// if that is yet another.
type hashedBody struct {
	body  *Body
	left  int64
	pool  *hashPool
	md5   hash.Hash
	lane  md5simd.Hasher // what md5 is, if it is a lane
	crc64 uint64
	extra hash.Hash // nil for none and for CRC64NVME
}

func newHashedBody(pool *hashPool, body *Body) *hashedBody {
	h := &hashedBody{body: body, left: body.Bytes, pool: pool, lane: pool.lanes.get(body.Bytes)}
	if h.lane != nil {
		h.md5 = h.lane
	} else {
		h.md5 = pool.getMD5()
	}
	switch a := body.Checksum.Algorithm; a {
	case metadata.ChecksumNone, metadata.ChecksumCRC64NVME:
	default:
		h.extra = pool.getExtra(a)
	}
	return h
}

// close gives the hashes back. It is called once.
func (h *hashedBody) close() {
	h.pool.lanes.release(h.body.Bytes, h.lane)
	if h.lane == nil {
		h.pool.md5.Put(h.md5)
	}
	if h.extra != nil {
		h.pool.extra[h.body.Checksum.Algorithm].Put(h.extra)
		h.extra = nil
	}
}

// Read yields at most the declared length. The body's early end is
// ErrIncompleteBody, its other errors come through.
func (h *hashedBody) Read(p []byte) (int, error) {
	if h.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), h.left)]
	n, err := h.body.Reader.Read(p)
	if n > 0 {
		h.left -= int64(n)
		h.crc64 = crc64nvme.Update(h.crc64, p[:n])
		h.md5.Write(p[:n])
		if h.extra != nil {
			h.extra.Write(p[:n])
		}
	}
	if err == io.EOF {
		if h.left > 0 {
			return n, ErrIncompleteBody
		}
		err = nil // said again by the next read
	}
	return n, err
}

// digest is what a body hashed to.
type digest struct {
	md5      [16]byte
	crc64    uint64
	checksum metadata.Checksum // as the client sees it: its own, or CRC64NVME
}

// finish sees that the body ends where it should, and compares what it hashed
// to with what the client said.
func (h *hashedBody) finish() (digest, error) {
	if err := h.expectEnd(); err != nil {
		return digest{}, err
	}
	d := digest{crc64: h.crc64, checksum: metadata.Checksum{Algorithm: metadata.ChecksumCRC64NVME}}
	h.md5.Sum(d.md5[:0])
	var crc [8]byte
	binary.BigEndian.PutUint64(crc[:], h.crc64)
	d.checksum.Value = string(crc[:])
	if h.extra != nil {
		d.checksum.Algorithm = h.body.Checksum.Algorithm
		d.checksum.Value = string(h.extra.Sum(nil))
	}
	if want := h.body.MD5; want != nil && *want != d.md5 {
		return digest{}, ErrBadDigest
	}
	value := h.body.Checksum.Value
	if h.body.Trailer != nil {
		trailer, err := h.body.Trailer()
		if err != nil {
			return digest{}, err
		}
		if trailer != "" {
			value = trailer
		}
	}
	if h.body.Checksum.Algorithm != metadata.ChecksumNone && value != "" && value != d.checksum.Value {
		return digest{}, fmt.Errorf("%w: %s", ErrBadChecksum, checksum.Name(d.checksum.Algorithm))
	}
	return d, nil
}

// expectEnd reads on until the reader says that it ended: some verify a
// signature only then.
func (h *hashedBody) expectEnd() error {
	if h.left > 0 {
		return ErrIncompleteBody
	}
	var one [1]byte
	for range maxEmptyReads {
		n, err := h.body.Reader.Read(one[:])
		switch {
		case n > 0:
			return ErrBodyTooLong
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// maxEmptyReads is how often in a row a reader may return nothing and no
// error, as in package bufio.
const maxEmptyReads = 100
