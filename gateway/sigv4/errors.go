package sigv4

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Error is a refusal as S3 words it. It carries everything that the XML body
// of the answer needs and never a secret or a signature that we computed.
type Error struct {
	Code    string  // S3's error code, such as "SignatureDoesNotMatch"; stable
	Status  int     // HTTP status
	Message string  // S3's message, a sentence
	Details []Field // further elements of the <Error> body, in order
	cause   error
}

// Field is one further element of an error's XML body.
type Field struct {
	Name  string // element name, such as "StringToSign"
	Value string // text, not yet escaped for XML; parts that the client sent may hold any byte
}

// Error returns the code and the message.
func (e *Error) Error() string { return "sigv4: " + e.Code + ": " + e.Message }

// Unwrap returns what caused the refusal, or nil: for IncompleteBody, the
// error of the underlying reader.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error of the same code, so that
// errors.Is(err, &Error{Code: "IncompleteBody"}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

func refuse(status int, code, message string, details ...Field) *Error {
	return &Error{Code: code, Status: status, Message: message, Details: details}
}

func accessDenied(message string, details ...Field) *Error {
	return refuse(http.StatusForbidden, "AccessDenied", message, details...)
}

func invalidArgument(message, name, value string) *Error {
	err := refuse(http.StatusBadRequest, "InvalidArgument", message, Field{"ArgumentName", name})
	if value != "" {
		err.Details = append(err.Details, Field{"ArgumentValue", shorten(value)})
	}
	return err
}

func invalidRequest(message string) *Error {
	return refuse(http.StatusBadRequest, "InvalidRequest", message)
}

func invalidURI() *Error {
	return refuse(http.StatusBadRequest, "InvalidURI", "Couldn't parse the specified URI.")
}

func unsupportedMechanism() *Error {
	return invalidRequest("The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.")
}

func headersNotSigned(names string) *Error {
	return accessDenied("There were headers present in the request which were not signed", Field{"HeadersNotSigned", names})
}

func tooSkewed(requested, now time.Time) *Error {
	return refuse(http.StatusForbidden, "RequestTimeTooSkewed",
		"The difference between the request time and the current time is too large.",
		Field{"RequestTime", requested.Format(stampLayout)},
		Field{"ServerTime", now.UTC().Format(time.RFC3339)},
		Field{"MaxAllowedSkewMilliseconds", strconv.FormatInt(maxSkew.Milliseconds(), 10)})
}

// maxSpelledBytes bounds the canonical request that is also spelled in hex.
const maxSpelledBytes = 8 << 10

// mismatch is the answer to a wrong signature. It shows what was signed here,
// so that the client can see which part differs.
func mismatch(accessKey, provided string, stringToSign, canonicalRequest []byte) *Error {
	err := refuse(http.StatusForbidden, "SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided. Check your key and signing method.",
		Field{"AWSAccessKeyId", accessKey},
		Field{"StringToSign", string(stringToSign)},
		Field{"SignatureProvided", shorten(provided)},
		Field{"StringToSignBytes", spell(stringToSign)})
	if canonicalRequest != nil {
		err.Details = append(err.Details, Field{"CanonicalRequest", string(canonicalRequest)})
	}
	if n := len(canonicalRequest); n > 0 && n <= maxSpelledBytes {
		err.Details = append(err.Details, Field{"CanonicalRequestBytes", spell(canonicalRequest)})
	}
	return err
}

// spell writes bytes as AWS does: two hex digits each, separated by spaces.
func spell(b []byte) string {
	out := make([]byte, 0, 3*len(b))
	for i, c := range b {
		if i > 0 {
			out = append(out, ' ')
		}
		out = hex.AppendEncode(out, []byte{c})
	}
	return string(out)
}

func incompleteBody(cause error) *Error {
	err := refuse(http.StatusBadRequest, "IncompleteBody", "The request body terminated unexpectedly")
	err.cause = cause
	return err
}

func wrongLength(want, got int64) *Error {
	return refuse(http.StatusBadRequest, "IncompleteBody",
		"You did not provide the number of bytes specified by the Content-Length HTTP header",
		Field{"NumberBytesExpected", strconv.FormatInt(want, 10)},
		Field{"NumberBytesProvided", strconv.FormatInt(got, 10)})
}

func malformedTrailer() *Error {
	return refuse(http.StatusBadRequest, "MalformedTrailerError",
		"The request contained trailing data that was not well-formed or did not conform to our published schema.")
}

func chunkTooSmall(index, size int64) *Error {
	return refuse(http.StatusBadRequest, "InvalidChunkSizeError",
		fmt.Sprintf("Only the last chunk is allowed to have a size less than %d bytes", minChunkBytes),
		Field{"Chunk", strconv.FormatInt(index, 10)},
		Field{"BadChunkSize", strconv.FormatInt(size, 10)})
}
