package sigv4

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
)

// Payload says how the body of a request is protected and framed.
type Payload uint8

// The payload modes, by the value of x-amz-content-sha256.
const (
	PayloadUnsigned                 Payload = iota // UNSIGNED-PAYLOAD, presigned or anonymous
	PayloadSigned                                  // hex SHA-256 of the whole body
	PayloadStreaming                               // STREAMING-AWS4-HMAC-SHA256-PAYLOAD
	PayloadStreamingTrailer                        // STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER
	PayloadStreamingUnsignedTrailer                // STREAMING-UNSIGNED-PAYLOAD-TRAILER
)

// Chunked reports whether the body is aws-chunked.
func (p Payload) Chunked() bool { return p >= PayloadStreaming }

// chunksSigned reports whether each chunk carries a signature.
func (p Payload) chunksSigned() bool {
	return p == PayloadStreaming || p == PayloadStreamingTrailer
}

// trailerAllowed reports whether trailing headers may follow the chunks.
func (p Payload) trailerAllowed() bool {
	return p == PayloadStreamingTrailer || p == PayloadStreamingUnsignedTrailer
}

// UnsignedPayload is the payload hash that leaves the body unsigned.
const UnsignedPayload = "UNSIGNED-PAYLOAD"

// EmptySHA256 is the hash of an empty body, in hex.
const EmptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

const (
	streaming                = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamingTrailer         = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	streamingUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	streamingECDSA           = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
	streamingECDSATrailer    = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER"
)

// maxTrailers bounds the trailing headers of one body. AWS's SDKs send one.
const maxTrailers = 8

// setPayload reads the payload mode from the hash that the signature covers.
func (id *Identity) setPayload(hash string) *Error {
	switch hash {
	case UnsignedPayload:
		id.Payload = PayloadUnsigned
	case streaming:
		id.Payload = PayloadStreaming
	case streamingTrailer:
		id.Payload = PayloadStreamingTrailer
	case streamingUnsignedTrailer:
		id.Payload = PayloadStreamingUnsignedTrailer
	case streamingECDSA, streamingECDSATrailer:
		return refuse(http.StatusNotImplemented, "NotImplemented",
			"The chunk encoding algorithm "+hash+" is not supported.")
	default:
		n := 0
		if len(hash) == hex.EncodedLen(len(id.SHA256)) {
			n, _ = hex.Decode(id.SHA256[:], []byte(hash))
		}
		if n != len(id.SHA256) {
			return invalidArgument("x-amz-content-sha256 must be "+UnsignedPayload+", "+streamingUnsignedTrailer+", "+
				streaming+", "+streamingTrailer+", "+streamingECDSA+", "+streamingECDSATrailer+
				" or a valid sha256 value.", "x-amz-content-sha256", hash)
		}
		id.Payload = PayloadSigned
	}
	return nil
}

// setLength reads what the head says about the length and the trailers of the
// body, and refuses framing that would be stored as data.
func (id *Identity) setLength(r *http.Request) *Error {
	id.rawLength, id.Length = r.ContentLength, r.ContentLength
	var decoded int64 = -1
	if v := r.Header["X-Amz-Decoded-Content-Length"]; len(v) > 0 {
		n, err := strconv.ParseInt(v[0], 10, 64)
		if err != nil || !allDigits(v[0]) {
			return invalidArgument("x-amz-decoded-content-length must be a number of bytes",
				"x-amz-decoded-content-length", v[0])
		}
		decoded = n
	}
	if !id.Payload.Chunked() {
		// A framed body is longer than its content. Of two equal lengths
		// nothing is framed, whatever the headers call it.
		framed := decoded >= 0 || hasChunkedCoding(r.Header["Content-Encoding"])
		if framed && r.ContentLength != 0 && decoded != r.ContentLength {
			return invalidRequest("A body in aws-chunked encoding requires an x-amz-content-sha256 header whose value " +
				"begins with STREAMING-.")
		}
		return nil
	}
	if decoded < 0 {
		return refuse(http.StatusLengthRequired, "MissingContentLength",
			"You must provide the Content-Length HTTP header.")
	}
	id.Length = decoded
	if id.Payload.trailerAllowed() {
		return id.setTrailerNames(r.Header["X-Amz-Trailer"])
	}
	return nil
}

// setTrailerNames reads the x-amz-trailer headers. S3 knows checksums as
// trailing headers and nothing else.
func (id *Identity) setTrailerNames(values []string) *Error {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			if name == "" {
				continue
			}
			if !strings.HasPrefix(name, "x-amz-checksum-") || len(id.TrailerNames) == maxTrailers {
				return invalidRequest("The value specified in the x-amz-trailer header is not supported")
			}
			id.TrailerNames = append(id.TrailerNames, name)
		}
	}
	return nil
}

const awsChunked = "aws-chunked"

func hasChunkedCoding(values []string) bool {
	for _, v := range values {
		for coding := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(coding), awsChunked) {
				return true
			}
		}
	}
	return false
}

// StripChunked removes aws-chunked from the value of Content-Encoding and
// returns what is to be stored; other codings keep their order and spelling.
func StripChunked(contentEncoding string) string {
	if !hasChunkedCoding([]string{contentEncoding}) {
		return contentEncoding
	}
	var kept []string
	for coding := range strings.SplitSeq(contentEncoding, ",") {
		coding = strings.TrimSpace(coding)
		if coding != "" && !strings.EqualFold(coding, awsChunked) {
			kept = append(kept, coding)
		}
	}
	return strings.Join(kept, ",")
}
