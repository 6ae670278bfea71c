package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/sigv4"
)

// callsPath is where the calls are.
const callsPath = "/admin/v1"

// maxAnswerBytes bounds what a client reads of an answer.
const maxAnswerBytes = 64 << 20

// Client calls the admin API of one server. It is safe for concurrent use.
type Client struct {
	base   string
	signer sigv4.Signer
	http   *http.Client
	now    func() time.Time
}

// NewClient returns a client of the server at base, such as
// "http://127.0.0.1:9001", that signs with the given access key. A nil
// transport is http.DefaultTransport.
func NewClient(base, accessKey, secret string, transport http.RoundTripper, now func() time.Time) *Client {
	return &Client{
		base:   strings.TrimRight(base, "/"),
		signer: sigv4.Signer{AccessKey: accessKey, Secret: secret, Region: SigningRegion},
		http:   &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		now:    now,
	}
}

// Base returns the address of the server.
func (c *Client) Base() string { return c.base }

// Status asks how the store is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return ask[Status](ctx, c, http.MethodGet, "/status", nil)
}

// Repair asks what is being fixed.
func (c *Client) Repair(ctx context.Context) (*Repair, error) {
	return ask[Repair](ctx, c, http.MethodGet, "/repair", nil)
}

// ResumeCollection confirms, after a restore, that garbage may be freed.
func (c *Client) ResumeCollection(ctx context.Context) (*Repair, error) {
	return ask[Repair](ctx, c, http.MethodPost, "/collection/resume", nil)
}

// Drives lists the drives.
func (c *Client) Drives(ctx context.Context) ([]Drive, error) {
	list, err := ask[DriveList](ctx, c, http.MethodGet, "/drives", nil)
	return list.Drives, err
}

// ReplaceDrive formats a drive and starts its rebuild.
func (c *Client) ReplaceDrive(ctx context.Context, req *ReplaceRequest) (*Drive, error) {
	return ask[Drive](ctx, c, http.MethodPost, "/drives/replace", req)
}

// Scrub asks how far scrubs have come.
func (c *Client) Scrub(ctx context.Context) (*Scrub, error) {
	return ask[Scrub](ctx, c, http.MethodGet, "/scrub", nil)
}

// StartScrub begins a scrub of every drive.
func (c *Client) StartScrub(ctx context.Context) (*Scrub, error) {
	return ask[Scrub](ctx, c, http.MethodPost, "/scrub", nil)
}

// Keys lists the access keys.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	list, err := ask[KeyList](ctx, c, http.MethodGet, "/keys", nil)
	return list.Keys, err
}

// CreateKey makes an access key. Its secret is in the answer and never again.
func (c *Client) CreateKey(ctx context.Context, req *CreateKeyRequest) (*Key, error) {
	return ask[Key](ctx, c, http.MethodPost, "/keys", req)
}

// DeleteKey deletes an access key.
func (c *Client) DeleteKey(ctx context.Context, id string) error {
	_, err := ask[struct{}](ctx, c, http.MethodDelete, "/keys/"+url.PathEscape(id), nil)
	return err
}

// Keyring asks what may be known of the encryption keys.
func (c *Client) Keyring(ctx context.Context) (*Keyring, error) {
	return ask[Keyring](ctx, c, http.MethodGet, "/keyring", nil)
}

// BackupKeyring fetches the keyring, sealed under the recovery code.
func (c *Client) BackupKeyring(ctx context.Context) (*KeyringBackup, error) {
	return ask[KeyringBackup](ctx, c, http.MethodPost, "/keyring/backup", nil)
}

// VerifyKeyring asks whether the recovery code is the right one.
func (c *Client) VerifyKeyring(ctx context.Context, recoveryCode string) (*Keyring, error) {
	return ask[Keyring](ctx, c, http.MethodPost, "/keyring/verify", &VerifyRequest{recoveryCode})
}

// Buckets lists the buckets.
func (c *Client) Buckets(ctx context.Context) ([]Bucket, error) {
	list, err := ask[BucketList](ctx, c, http.MethodGet, "/buckets", nil)
	return list.Buckets, err
}

// SetBucket changes settings of a bucket.
func (c *Client) SetBucket(ctx context.Context, name string, req *SetBucketRequest) (*Bucket, error) {
	return ask[Bucket](ctx, c, http.MethodPatch, "/buckets/"+url.PathEscape(name), req)
}

// Metadata asks how the copies of the metadata are.
func (c *Client) Metadata(ctx context.Context) (*Metadata, error) {
	return ask[Metadata](ctx, c, http.MethodGet, "/metadata", nil)
}

// AddCopy asks for one more copy of the metadata.
func (c *Client) AddCopy(ctx context.Context, req *AddCopyRequest) (*Metadata, error) {
	return ask[Metadata](ctx, c, http.MethodPost, "/metadata/add", req)
}

// ReplaceCopy puts a new copy of the metadata into the place of another.
func (c *Client) ReplaceCopy(ctx context.Context, req *ReplaceCopyRequest) (*Metadata, error) {
	return ask[Metadata](ctx, c, http.MethodPost, "/metadata/replace", req)
}

// RemoveCopy takes a copy of the metadata away.
func (c *Client) RemoveCopy(ctx context.Context, req *CopyRequest) (*Metadata, error) {
	return ask[Metadata](ctx, c, http.MethodPost, "/metadata/remove", req)
}

// TransferCopy has other copies of the metadata lead what this one leads.
func (c *Client) TransferCopy(ctx context.Context, req *CopyRequest) (*Metadata, error) {
	return ask[Metadata](ctx, c, http.MethodPost, "/metadata/transfer", req)
}

// ask makes one call. The answer is never nil.
func ask[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	answer := new(T)
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return answer, err
		}
	}
	reply, err := c.send(ctx, method, callsPath+path, text)
	if err != nil {
		return answer, err
	}
	defer reply.Body.Close()
	if text, err = c.read(reply); err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return answer, fmt.Errorf("answer of %s: %w", c.base, err)
	}
	return answer, nil
}

// send makes one call with a JSON body and returns the answer, whose body the
// caller closes. A refusal is an error.
func (c *Client) send(ctx context.Context, method, path string, text []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	sum := sha256.Sum256(text)
	if err := c.signer.Sign(req, hex.EncodeToString(sum[:]), c.now()); err != nil {
		return nil, fmt.Errorf("sign the call: %w", err)
	}
	reply, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(c.base, err)
	}
	if reply.StatusCode == http.StatusOK {
		return reply, nil
	}
	defer reply.Body.Close()
	if text, err = c.read(reply); err != nil {
		return nil, err
	}
	e := &Error{Status: reply.StatusCode}
	if json.Unmarshal(text, e) != nil || e.Code == "" {
		e.Code, e.Message = CodeInternal, fmt.Sprintf("%s answers %s; is it the admin address of a ruche server, and does it begin with https:// if that speaks TLS?", c.base, reply.Status)
	}
	return nil, e
}

func (c *Client) read(reply *http.Response) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxAnswerBytes))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.base, err)
	}
	return text, nil
}

// unreachable words the failure to reach a server.
func unreachable(base string, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return fmt.Errorf("cannot reach the server at %s: %w; start it with \"ruche serve\", or name it with --admin", base, err)
}
