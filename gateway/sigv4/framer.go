package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
)

// framer turns content into an aws-chunked body.
type framer struct {
	source io.Reader
	left   int64 // content still to come
	opts   StreamOptions
	signed

	content []byte // one chunk
	out     []byte // framed bytes not read yet
	frame   []byte // memory of out
	err     error
}

func newFramer(source io.Reader, length int64, o StreamOptions, s signed) *framer {
	return &framer{
		source: source, left: length, opts: o, signed: s,
		content: make([]byte, min(int64(o.ChunkBytes), max(length, 1))),
	}
}

// framedLength is the Content-Length of a framed body.
func framedLength(length int64, o StreamOptions) int64 {
	head := func(size int64) int64 {
		n := int64(len(strconv.FormatInt(size, 16))) + 2
		if !o.Unsigned {
			n += int64(len(";"+chunkSignature)) + signatureDigits
		}
		return n
	}
	chunk := int64(o.ChunkBytes)
	total := length/chunk*(head(chunk)+chunk+2) + head(0) + 2
	if rest := length % chunk; rest > 0 {
		total += head(rest) + rest + 2
	}
	if o.TrailerName != "" {
		total += int64(len(o.TrailerName) + 1 + o.TrailerBytes + 2)
		if !o.Unsigned {
			total += int64(len(trailSignature)) + 1 + signatureDigits + 2
		}
	}
	return total
}

// Read implements io.Reader.
func (f *framer) Read(p []byte) (int, error) {
	for len(f.out) == 0 {
		if f.err == nil {
			f.err = f.fill()
		}
		if len(f.out) == 0 {
			return 0, f.err
		}
	}
	n := copy(p, f.out)
	f.out = f.out[n:]
	return n, nil
}

// fill frames the next chunk; behind the last one it returns io.EOF, with out
// filled.
func (f *framer) fill() error {
	chunk := f.content[:min(int64(len(f.content)), f.left)]
	if n, err := io.ReadFull(f.source, chunk); err != nil {
		return fmt.Errorf("sigv4: body ended %d bytes early: %w", f.left-int64(n), err)
	}
	f.left -= int64(len(chunk))
	if len(chunk) == 0 {
		if n, err := io.ReadFull(f.source, make([]byte, 1)); n > 0 || err != io.EOF {
			return fmt.Errorf("sigv4: body is longer than announced (%w)", err)
		}
	}
	b := strconv.AppendInt(f.frame[:0], int64(len(chunk)), 16)
	if !f.opts.Unsigned {
		b = append(b, ";"+chunkSignature...)
		f.seed = f.next(chunkAlgorithm, EmptySHA256+"\n", chunk)
		b = append(b, f.seed[:]...)
	}
	b = append(b, "\r\n"...)
	b = append(b, chunk...)
	if len(chunk) > 0 {
		f.frame = append(b, "\r\n"...)
		f.out = f.frame
		return nil
	}
	b, err := f.appendTrailer(b)
	if err != nil {
		return err
	}
	f.out = append(b, "\r\n"...)
	return io.EOF
}

// next returns the signature that follows f.seed.
func (f *framer) next(algorithm, between string, data []byte) (out [64]byte) {
	sum := sha256.Sum256(data)
	s := make([]byte, hmacBlock, 512)
	s = append(s, algorithm+"\n"+f.stamp+"\n"+f.scope+"\n"...)
	s = append(s, f.seed[:]...)
	s = append(s, "\n"+between...)
	s = hex.AppendEncode(s, sum[:])
	mac := hmacPadded(&f.key, s)
	hex.Encode(out[:], mac[:])
	return out
}

func (f *framer) appendTrailer(b []byte) ([]byte, error) {
	if f.opts.TrailerName == "" {
		return b, nil
	}
	value := f.opts.Trailer()
	if len(value) != f.opts.TrailerBytes {
		return nil, fmt.Errorf("sigv4: trailing header has %d bytes, not %d as announced", len(value), f.opts.TrailerBytes)
	}
	line := f.opts.TrailerName + ":" + value
	b = append(b, line+"\r\n"...)
	if f.opts.Unsigned {
		return b, nil
	}
	f.seed = f.next(trailAlgorithm, "", []byte(line+"\n"))
	b = append(b, trailSignature+":"...)
	b = append(b, f.seed[:]...)
	return append(b, "\r\n"...), nil
}
