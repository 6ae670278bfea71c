package linear

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// client makes one call after the other.
type client struct {
	l    *Load
	id   int
	rand *rand.Rand
}

// act makes a call, or those that belong together.
func (c *client) act(ctx context.Context) {
	prefix, keys := c.l.round()
	k := keys[c.rand.IntN(len(keys))]
	switch n := c.rand.IntN(100); {
	case n < 24:
		c.read(ctx, k, http.MethodGet, c.readCondition(k))
	case n < 34:
		c.read(ctx, k, http.MethodHead, c.readCondition(k))
	case n < 40:
		c.list(ctx, prefix, keys)
	case n < 64:
		c.put(ctx, k)
	case n < 78:
		c.delete(ctx, k)
	case n < 87:
		c.multipart(ctx, k)
	case n < 95:
		c.copy(ctx, keys[c.rand.IntN(len(keys))], k)
	default:
		c.touch(ctx, k)
	}
}

// do makes a call and says how it ended. The reply is nil if there was none.
func (c *client) do(ctx context.Context, ok int, method, key string, query url.Values, header http.Header, body []byte) (*reply, Answer) {
	r, err := c.l.caller.call(ctx, method, key, query, header, body)
	if errors.Is(err, errNotSent) {
		select {
		case <-ctx.Done():
		case <-time.After(notSentWait):
		}
		return nil, Abandoned
	}
	c.l.calls.Add(1)
	if err != nil {
		c.l.unknown.Add(1)
		return nil, Unknown
	}
	answer, err := r.answer(ok)
	if err != nil {
		c.l.fail(fmt.Errorf("%s %s: %w", method, key, err))
	}
	if answer == Unknown {
		c.l.unknown.Add(1)
	}
	return r, answer
}

// note adds a call to the history of a key.
func (c *client) note(k *Key, begin int64, in Input, out Output) {
	if out.Answer != Abandoned {
		k.Add(c.id, begin, c.l.now(), &in, &out)
	}
}

// newBody returns the number and the bytes of something new: most bodies are
// kept in the metadata, some on drives.
func (c *client) newBody() (uint32, []byte) {
	id := c.l.ids.Add(1)
	size := 8 + c.rand.IntN(2000)
	if c.rand.IntN(8) == 0 {
		size = 8 + c.rand.IntN(c.l.options.LargeBytes)
	}
	body := make([]byte, size)
	text := strconv.AppendUint(nil, uint64(id), 10)
	for i := range body {
		body[i] = '-'
	}
	copy(body, text)
	copy(body[size-min(len(text), 8):], text)
	return id, body
}

func idOf(id uint32) http.Header {
	return http.Header{idHeader: {strconv.FormatUint(uint64(id), 10)}}
}

// conditions adds those of in to a header.
func conditions(h http.Header, in *Input) http.Header {
	if in.IfMatch != "" {
		h.Set("If-Match", `"`+in.IfMatch+`"`)
	}
	switch in.IfNone {
	case "":
	case "*":
		h.Set("If-None-Match", "*")
	default:
		h.Set("If-None-Match", `"`+in.IfNone+`"`)
	}
	return h
}

// readCondition draws the condition of a read, most often none.
func (c *client) readCondition(k *Key) (in Input) {
	switch c.rand.IntN(5) {
	case 0:
		in.IfMatch = k.tag(c.rand.IntN(2))
	case 1:
		in.IfNone = k.tag(c.rand.IntN(2))
	}
	return in
}

// writeCondition draws the condition of a write.
func (c *client) writeCondition(k *Key, in *Input) {
	switch c.rand.IntN(5) {
	case 0:
		in.IfMatch = k.tag(c.rand.IntN(2))
	case 1:
		in.IfNone = "*"
	}
}

// read reads a key by GET or HEAD. The body of a GET must be the one that its
// ETag belongs to.
func (c *client) read(ctx context.Context, k *Key, method string, in Input) Answer {
	begin := c.l.now()
	r, answer := c.do(ctx, http.StatusOK, method, k.Name, nil, conditions(http.Header{}, &in), nil)
	out := Output{Answer: answer}
	if answer == OK {
		out.ID, out.ETag = r.id(), r.tag()
		if method == http.MethodGet && sum(r.body) != out.ETag && partSum(r.body) != out.ETag {
			c.l.fail(fmt.Errorf("GET %s: %d bytes with MD5 %s, the ETag is %s", k.Name, len(r.body), sum(r.body), out.ETag))
		}
	}
	c.note(k, begin, in, out)
	return answer
}

// list lists a prefix, of which keys are all that there may be.
func (c *client) list(ctx context.Context, prefix string, keys []*Key) Answer {
	begin := c.l.now()
	listed := make(map[string]string)
	query := url.Values{"list-type": {"2"}, "prefix": {prefix}}
	for more := true; more; {
		r, answer := c.do(ctx, http.StatusOK, http.MethodGet, "", query, nil, nil)
		if answer != OK {
			return Unknown
		}
		var page listing
		if err := xml.Unmarshal(r.body, &page); err != nil {
			c.l.fail(fmt.Errorf("list %s: %w: %v", prefix, err, r))
			return Unknown
		}
		for _, o := range page.Contents {
			listed[o.Key] = trim(o.ETag)
		}
		more = page.IsTruncated
		query.Set("continuation-token", page.NextContinuationToken)
	}
	for _, k := range keys {
		out := Output{Answer: NoKey}
		if tag, found := listed[k.Name]; found {
			out = Output{Answer: OK, ETag: tag}
		}
		c.note(k, begin, Input{Kind: List}, out)
		delete(listed, k.Name)
	}
	for name := range listed {
		c.l.fail(fmt.Errorf("list %s: %s was never written", prefix, name))
	}
	return OK
}

// put writes a whole object.
func (c *client) put(ctx context.Context, k *Key) {
	id, body := c.newBody()
	in := Input{Kind: Write, ID: id, ETag: sum(body)}
	c.writeCondition(k, &in)
	begin := c.l.now()
	r, answer := c.do(ctx, http.StatusOK, http.MethodPut, k.Name, nil, conditions(idOf(id), &in), body)
	if answer == OK && r.tag() != in.ETag {
		c.l.fail(fmt.Errorf("PUT %s: ETag %s, want %s", k.Name, r.tag(), in.ETag))
	}
	c.note(k, begin, in, Output{Answer: answer})
}

func (c *client) delete(ctx context.Context, k *Key) {
	in := Input{Kind: Delete}
	if c.rand.IntN(4) == 0 {
		in.IfMatch = k.tag(c.rand.IntN(2))
	}
	begin := c.l.now()
	_, answer := c.do(ctx, http.StatusNoContent, http.MethodDelete, k.Name, nil, conditions(http.Header{}, &in), nil)
	c.note(k, begin, in, Output{Answer: answer})
}

// copied is what CopyObject answers.
type copied struct{ ETag string }

// copy copies what is under one key, if it is still what was seen there, to
// another one.
func (c *client) copy(ctx context.Context, from, to *Key) {
	source := Input{Kind: Read, IfMatch: from.tag(c.rand.IntN(2))}
	if from == to || source.IfMatch == "" {
		return
	}
	in := Input{Kind: Write, ID: c.l.ids.Add(1), ETag: source.IfMatch}
	if len(in.ETag) > len("d41d8cd98f00b204e9800998ecf8427e") {
		return // a copy of what was uploaded in parts has another ETag
	}
	header := idOf(in.ID)
	header.Set("X-Amz-Copy-Source", "/"+c.l.options.Bucket+"/"+from.Name)
	header.Set("X-Amz-Copy-Source-If-Match", `"`+source.IfMatch+`"`)
	header.Set("X-Amz-Metadata-Directive", "REPLACE")
	begin := c.l.now()
	r, answer := c.do(ctx, http.StatusOK, http.MethodPut, to.Name, nil, header, nil)
	switch answer {
	case Failed, NoKey:
		c.note(from, begin, source, Output{Answer: answer}) // nothing was written
	case OK:
		var result copied
		if err := xml.Unmarshal(r.body, &result); err != nil || trim(result.ETag) != in.ETag {
			c.l.fail(fmt.Errorf("copy to %s: ETag %s, %v, want %s", to.Name, result.ETag, err, in.ETag))
		}
		// Which of the writes with this ETag was read is not told: a list does
		// not tell either.
		c.note(from, begin, Input{Kind: List}, Output{Answer: OK, ETag: source.IfMatch})
		c.note(to, begin, in, Output{Answer: OK})
	default:
		c.note(to, begin, in, Output{Answer: answer})
	}
}

// touch copies an object onto itself with another number, if it is still what
// was seen: its bytes stay where they are.
func (c *client) touch(ctx context.Context, k *Key) {
	in := Input{Kind: Touch, ID: c.l.ids.Add(1), IfMatch: k.tag(0)}
	if in.IfMatch == "" {
		return
	}
	header := idOf(in.ID)
	header.Set("X-Amz-Copy-Source", "/"+c.l.options.Bucket+"/"+k.Name)
	header.Set("X-Amz-Copy-Source-If-Match", `"`+in.IfMatch+`"`)
	header.Set("X-Amz-Metadata-Directive", "REPLACE")
	begin := c.l.now()
	_, answer := c.do(ctx, http.StatusOK, http.MethodPut, k.Name, nil, header, nil)
	c.note(k, begin, in, Output{Answer: answer})
}

// multipart uploads one part, and completes or aborts the upload, sometimes
// more than once.
func (c *client) multipart(ctx context.Context, k *Key) {
	id, body := c.newBody()
	r, answer := c.do(ctx, http.StatusOK, http.MethodPost, k.Name, url.Values{"uploads": {""}}, idOf(id), nil)
	if answer != OK {
		return // nobody knows its id
	}
	var created struct{ UploadId string }
	if err := xml.Unmarshal(r.body, &created); err != nil || created.UploadId == "" {
		c.l.fail(fmt.Errorf("create upload of %s: %v: %v", k.Name, err, r))
		return
	}
	number, ok := k.upload()
	if !ok {
		return
	}
	in := Input{Kind: Complete, ID: id, ETag: partSum(body), Upload: number}
	query := url.Values{"uploadId": {created.UploadId}}
	part := url.Values{"uploadId": {created.UploadId}, "partNumber": {"1"}}
	if _, answer := c.do(ctx, http.StatusOK, http.MethodPut, k.Name, part, nil, body); answer != OK || c.rand.IntN(8) == 0 {
		c.abort(ctx, k, query, number)
		return
	}
	c.writeCondition(k, &in)
	for range 3 {
		answer := c.complete(ctx, k, query, in, sum(body))
		if answer == Failed || answer == NoKey {
			in.IfMatch, in.IfNone = "", ""
			continue
		}
		if answer != Unknown && c.rand.IntN(4) != 0 {
			return
		}
	}
	c.abort(ctx, k, query, number)
}

func (c *client) complete(ctx context.Context, k *Key, query url.Values, in Input, part string) Answer {
	list := fmt.Sprintf(`<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"%s"</ETag></Part></CompleteMultipartUpload>`, part)
	begin := c.l.now()
	r, answer := c.do(ctx, http.StatusOK, http.MethodPost, k.Name, query, conditions(http.Header{}, &in), []byte(list))
	if answer == OK {
		var result copied
		if err := xml.Unmarshal(r.body, &result); err != nil || trim(result.ETag) != in.ETag {
			c.l.fail(fmt.Errorf("complete %s: ETag %s, %v, want %s", k.Name, result.ETag, err, in.ETag))
		}
	}
	c.note(k, begin, in, Output{Answer: answer})
	return answer
}

func (c *client) abort(ctx context.Context, k *Key, query url.Values, number uint8) {
	begin := c.l.now()
	_, answer := c.do(ctx, http.StatusNoContent, http.MethodDelete, k.Name, query, nil, nil)
	c.note(k, begin, Input{Kind: Abort, Upload: number}, Output{Answer: answer})
}
