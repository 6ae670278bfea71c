package sigv4

import (
	"bufio"
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"strings"
)

const (
	minChunkBytes   = 8 << 10 // all but the last chunk
	maxHeaderBytes  = 256     // of a chunk header; a signed one has at most 99
	maxTailBytes    = 8 << 10 // of all trailing headers together
	chunkAlgorithm  = "AWS4-HMAC-SHA256-PAYLOAD"
	trailAlgorithm  = "AWS4-HMAC-SHA256-TRAILER"
	chunkSignature  = "chunk-signature="
	trailSignature  = "x-amz-trailer-signature"
	signatureDigits = 64
)

// chunkState is where a reader stands in an aws-chunked body:
//
//	SIZE[;chunk-signature=SIGNATURE] CRLF data CRLF ...
//	0[;chunk-signature=SIGNATURE] CRLF [NAME:VALUE CRLF ...] CRLF
//
// Each signature covers the one before and the hash of its chunk, the first
// one that of the head. A signature comes before its data, so data is handed
// out while it is hashed, and the signature compared at the chunk's end.
type chunkState struct {
	left     int64 // bytes of the present chunk still to come
	size     int64 // of the present chunk
	index    int64 // of the present chunk, from 1; 0 before the first
	signed   [signatureDigits]byte
	previous int // where the previous signature begins in buffers.sts
}

// startChunks prepares the string to sign of all chunks: between two of them
// only the previous signature and the hash change.
func (b *Body) startChunks() {
	s := append(b.buffers.sts[:hmacBlock], chunkAlgorithm...)
	s = append(s, '\n')
	s = append(s, b.id.stamp...)
	s = append(s, '\n')
	s = append(s, b.id.scope...)
	s = append(s, '\n')
	b.chunk.previous = len(s)
	s = append(s, b.id.seed[:]...)
	s = append(s, '\n')
	s = append(s, EmptySHA256...)
	b.buffers.sts = append(s, '\n')
}

// readChunked reads the content of an aws-chunked body.
func (b *Body) readChunked(p []byte) (int, error) {
	if b.chunk.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
		if b.chunk.size == 0 {
			return 0, io.EOF
		}
	}
	p = p[:min(int64(len(p)), b.chunk.left)]
	n, err := b.buffers.reader.Read(p)
	if err != nil && n == 0 {
		return 0, sourceError(err)
	}
	b.chunk.left -= int64(n)
	b.given += int64(n)
	if b.id.Payload.chunksSigned() {
		b.buffers.hash.Write(p[:n])
	}
	if b.given < b.id.Length || b.chunk.left > 0 {
		return n, nil
	}
	// All content is here. It is complete when the last chunk and the
	// trailers hold, and only then the end of it is handed out.
	if err := b.nextChunk(); err != nil {
		return 0, err
	}
	return n, io.EOF
}

// nextChunk ends the present chunk and reads the header of the next one, which
// has at least one byte or is the last; then it reads the tail as well.
func (b *Body) nextChunk() error {
	if b.chunk.index > 0 {
		if err := b.endChunk(); err != nil {
			return err
		}
	}
	previous := b.chunk.size
	if err := b.chunkHeader(); err != nil {
		return err
	}
	b.chunk.index++
	b.chunk.left = b.chunk.size
	if b.chunk.size > b.id.Length-b.given {
		return wrongLength(b.id.Length, b.given+b.chunk.size)
	}
	if b.chunk.size > 0 {
		if b.chunk.index > 1 && previous < minChunkBytes {
			return chunkTooSmall(b.chunk.index-1, previous)
		}
		return nil
	}
	if b.given < b.id.Length {
		return wrongLength(b.id.Length, b.given)
	}
	if err := b.compareChunk(); err != nil {
		return err
	}
	return b.readTail()
}

// endChunk reads the line end behind a chunk's data and compares its
// signature.
func (b *Body) endChunk() error {
	for _, want := range [2]byte{'\r', '\n'} {
		got, err := b.buffers.reader.ReadByte()
		if err != nil {
			return sourceError(err)
		}
		if got != want {
			return incompleteBody(nil)
		}
	}
	return b.compareChunk()
}

// compareChunk compares the signature of the chunk whose data was hashed.
func (b *Body) compareChunk() error {
	if !b.id.Payload.chunksSigned() {
		return nil
	}
	s := hex.AppendEncode(b.buffers.sts, b.buffers.sum())
	mac := hmacPadded(&b.id.key, s)
	var want [signatureDigits]byte
	hex.Encode(want[:], mac[:])
	if subtle.ConstantTimeCompare(want[:], b.chunk.signed[:]) != 1 {
		return mismatch(b.id.AccessKey, string(b.chunk.signed[:]), s[hmacBlock:], nil)
	}
	copy(b.buffers.sts[b.chunk.previous:], want[:])
	return nil
}

// chunkHeader reads the header of a chunk into size and signed.
func (b *Body) chunkHeader() error {
	line, err := b.readLine(maxHeaderBytes)
	if err != nil {
		return err
	}
	line, ok := bytes.CutSuffix(line, []byte{'\r'})
	if !ok {
		return incompleteBody(nil)
	}
	digits, extension, _ := bytes.Cut(line, []byte{';'})
	size, ok := parseSize(digits)
	if !ok {
		return incompleteBody(nil)
	}
	b.chunk.size = size
	if !b.id.Payload.chunksSigned() {
		return nil // extensions mean nothing there
	}
	signature, ok := bytes.CutPrefix(extension, []byte(chunkSignature))
	if !ok || len(signature) != signatureDigits {
		return incompleteBody(nil)
	}
	copy(b.chunk.signed[:], signature)
	return nil
}

// parseSize reads a chunk size: 1 to 15 hex digits.
func parseSize(digits []byte) (int64, bool) {
	if len(digits) == 0 || len(digits) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		v, ok := nibble(c)
		if !ok {
			return 0, false
		}
		n = n<<4 | int64(v)
	}
	return n, true
}

// readLine returns the next line without its line feed; it is valid until the
// next read. A line longer than limit, or cut off, is an error.
func (b *Body) readLine(limit int) ([]byte, error) {
	line, err := b.buffers.reader.ReadSlice('\n')
	if err != nil && err != bufio.ErrBufferFull {
		return nil, sourceError(err)
	}
	if err != nil || len(line) > limit {
		return nil, incompleteBody(nil)
	}
	return line[:len(line)-1], nil
}

// readTail reads what follows the last chunk's header, to the end: trailing
// headers, the trailer's signature, and an empty line. Clients differ in where
// they put empty lines and whether trailing headers end in CRLF or LF, so
// empty lines may stand anywhere, but one must be the end.
func (b *Body) readTail() error {
	var trailers []Field
	var signature string
	for total, ended := 0, false; ; {
		_, err := b.buffers.reader.Peek(1)
		if err == io.EOF && ended {
			break
		}
		if err != nil {
			return sourceError(err)
		}
		line, err := b.readLine(lineBytes)
		if err != nil {
			return err
		}
		if total += len(line) + 1; total > maxTailBytes {
			return malformedTrailer()
		}
		line = bytes.TrimSpace(line)
		if ended = len(line) == 0; ended {
			continue
		}
		name, value, ok := strings.Cut(string(line), ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || signature != "" || len(trailers) == maxTrailers || !b.id.Payload.trailerAllowed() {
			return malformedTrailer()
		}
		if name == trailSignature && b.id.Payload.chunksSigned() {
			signature = value
			continue
		}
		trailers = append(trailers, Field{name, value})
		b.buffers.hash.Write([]byte(name + ":" + value + "\n"))
	}
	if b.id.rawLength >= 0 && b.raw != b.id.rawLength {
		return wrongLength(b.id.rawLength, b.raw)
	}
	if err := b.checkTrailers(trailers); err != nil {
		return err
	}
	if signature == "" && len(trailers) > 0 && b.id.Payload.chunksSigned() {
		return malformedTrailer()
	}
	if signature != "" {
		if err := b.compareTrailer(signature); err != nil {
			return err
		}
	}
	b.trailers = trailers
	return nil
}

// checkTrailers checks that the trailers are those that the head announced.
func (b *Body) checkTrailers(trailers []Field) error {
	if len(trailers) != len(b.id.TrailerNames) {
		return malformedTrailer()
	}
	for _, name := range b.id.TrailerNames {
		found := 0
		for _, f := range trailers {
			if f.Name == name {
				found++
			}
		}
		if found != 1 {
			return malformedTrailer()
		}
	}
	return nil
}

// compareTrailer compares the signature over the trailing headers.
func (b *Body) compareTrailer(signature string) error {
	s := make([]byte, hmacBlock, 512)
	s = append(s, trailAlgorithm...)
	s = append(s, '\n')
	s = append(s, b.id.stamp...)
	s = append(s, '\n')
	s = append(s, b.id.scope...)
	s = append(s, '\n')
	s = append(s, b.buffers.sts[b.chunk.previous:][:signatureDigits]...)
	s = append(s, '\n')
	s = hex.AppendEncode(s, b.buffers.sum())
	mac := hmacPadded(&b.id.key, s)
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(mac[:])), []byte(signature)) != 1 {
		return mismatch(b.id.AccessKey, signature, s[hmacBlock:], nil)
	}
	return nil
}
