package linear

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// errNotSent means that nothing of a call has reached a server.
var errNotSent = errors.New("not sent")

const (
	idHeader  = "X-Amz-Meta-Id" // the number of what was written
	callLimit = 10 * time.Second
)

// caller makes signed calls of S3, each once.
type caller struct {
	http    *http.Client
	target  func(context.Context) (string, error) // where the server is, once it is there
	options *Options
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// call makes a call for a key of the bucket, "" for the bucket itself. It
// returns errNotSent if the server was not reached, and another error if there
// was no whole answer.
func (c *caller) call(ctx context.Context, method, key string, query url.Values, header http.Header, body []byte) (*reply, error) {
	address, err := c.target(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	address += "/" + c.options.Bucket
	if key != "" {
		address += "/" + key
	}
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	answer, err := c.http.Do(signer.SignV4(*req, c.options.AccessKey, c.options.SecretKey, "", c.options.Region))
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	r := &reply{status: answer.StatusCode, header: answer.Header}
	if r.body, err = io.ReadAll(answer.Body); err != nil {
		return nil, err
	}
	return r, nil
}

// code returns the code of an error, which answers to HEAD do not have.
func (r *reply) code() string {
	var e struct{ Code string }
	if r.header.Get("Content-Type") != "application/xml" {
		return ""
	}
	if err := xml.Unmarshal(r.body, &e); err != nil {
		return ""
	}
	return e.Code
}

// String says what was answered.
func (r *reply) String() string { return fmt.Sprintf("status %d: %.300q", r.status, r.body) }

// answer turns a reply into an answer, ok being the status of success. The
// error is of an answer that no server may give.
func (r *reply) answer(ok int) (Answer, error) {
	code := r.code()
	switch {
	case r.status == ok && (ok != http.StatusOK || code == ""):
		return OK, nil
	case r.status == http.StatusOK && code != "", // an error behind the header, in a copy or a completion
		r.status >= http.StatusInternalServerError,
		code == "RequestTimeout":
		return Unknown, nil
	case r.status == http.StatusPreconditionFailed, r.status == http.StatusNotModified:
		return Failed, nil
	case r.status == http.StatusNotFound && code == "NoSuchUpload":
		return NoUpload, nil
	case r.status == http.StatusNotFound && (code == "NoSuchKey" || code == ""):
		return NoKey, nil
	case r.status == http.StatusConflict && code == "ConditionalRequestConflict":
		return Abandoned, nil
	}
	return Unknown, fmt.Errorf("unexpected answer: %v", r)
}

// tag returns the ETag without its quotes.
func (r *reply) tag() string { return strings.Trim(r.header.Get("ETag"), `"`) }

// id returns the number of what was read.
func (r *reply) id() uint32 {
	n, err := strconv.ParseUint(r.header.Get(idHeader), 10, 32)
	if err != nil {
		return 0 // that of nothing: no history explains it
	}
	return uint32(n)
}

// sum returns the ETag of a body that is put as a whole.
func sum(body []byte) string {
	s := md5.Sum(body)
	return hex.EncodeToString(s[:])
}

// partSum returns the ETag of an upload of one part.
func partSum(body []byte) string {
	part := md5.Sum(body)
	whole := md5.Sum(part[:])
	return hex.EncodeToString(whole[:]) + "-1"
}

// listing is what ListObjectsV2 answers.
type listing struct {
	Contents []struct {
		Key, ETag string
	}
	IsTruncated           bool
	NextContinuationToken string
}
