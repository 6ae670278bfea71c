package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ruche-storage/ruche/bench/client"
)

const (
	hashEvery  = 16   // every so many GETs of a worker are hashed and compared
	pageKeys   = 1000 // keys a LIST
	makers     = 8    // connections that make and remove objects around a step
	manyBodies = 4    // different bodies of a size
)

var errWrong = errors.New("wrong answer")

// done is what one call did.
type done struct{ units, bytes, verified int64 }

// worker is one client of a step.
type worker struct {
	conn *client.Conn
	n    int // calls so far
	rand *rand.Rand
	next string // continuation token of LIST
}

// job is a step on a side, ready to be run.
type job struct {
	side   *side
	step   step
	bodies []*client.Body
	tag    string       // begins the keys that the step makes
	keys   int          // objects made before the step
	taken  atomic.Int64 // of keys, by DELETE
	made   atomic.Int64 // objects made by the step

	call func(context.Context, *worker) (done, error)
}

// errSpent means that no object is left to delete.
var errSpent = errors.New("no object is left")

// newJob returns the job of a step. tag is what its keys begin with.
func newJob(sd *side, st step, tag string, o *options) *job {
	j := &job{side: sd, step: st, tag: tag}
	size := st.Size
	switch st.Op {
	case opPut:
		j.call = j.put
	case opGet:
		j.call, j.keys = j.get, objects(size, o.getBytes)
	case opHead:
		j.call, j.keys, size = j.head, o.objects, 4*kib
	case opList:
		j.call, j.keys, size = j.list, o.listKeys, 1
	case opDelete:
		j.call, j.keys, size = j.delete, o.deletes, 4*kib
	case opMultipart, opUpload:
		j.call, size = j.multipart, st.Part
	}
	n := manyBodies
	if size > 32*mib {
		n = 1 // the bodies of a size take at most 128 MiB
	}
	for i := range n {
		j.bodies = append(j.bodies, o.body(uint64(i), size))
	}
	return j
}

// objects is how many objects of a size GETs are spread over: at most 1,000,
// and few enough to stay in the page cache.
func objects(size, bytes int64) int {
	return int(min(max(bytes/max(size, 1), 2), 1000))
}

func (j *job) key(i int) string {
	return fmt.Sprintf("%s/%s/%06d", j.side.bucket, j.tag, i)
}

// newKey is a key that was not used before.
func (j *job) newKey() string {
	return fmt.Sprintf("%s/%s/new/%08d", j.side.bucket, j.tag, j.made.Add(1)-1)
}

// prepare makes the objects that the step needs.
func (j *job) prepare(ctx context.Context) error {
	return j.side.each(ctx, j.keys, func(c *client.Conn, i int) error {
		_, err := c.Do(ctx, &client.Request{Method: "PUT", Path: "/" + j.key(i), Body: j.bodies[i%len(j.bodies)], Payload: client.Unsigned})
		return err
	})
}

// clean removes what prepare and the step made.
func (j *job) clean(ctx context.Context) error {
	remove := func(key string) func(c *client.Conn) error {
		return func(c *client.Conn) error {
			_, err := c.Do(ctx, &client.Request{Method: "DELETE", Path: "/" + key})
			var refused *client.Error
			if errors.As(err, &refused) && refused.Status == 404 {
				return nil
			}
			return err
		}
	}
	if err := j.side.each(ctx, j.keys, func(c *client.Conn, i int) error { return remove(j.key(i))(c) }); err != nil {
		return err
	}
	n := int(j.made.Swap(0))
	return j.side.each(ctx, n, func(c *client.Conn, i int) error {
		return remove(fmt.Sprintf("%s/%s/new/%08d", j.side.bucket, j.tag, i))(c)
	})
}

func (j *job) put(ctx context.Context, w *worker) (done, error) {
	body := j.bodies[w.n%len(j.bodies)]
	_, err := w.conn.Do(ctx, &client.Request{Method: "PUT", Path: "/" + j.newKey(), Body: body, Payload: j.step.Payload})
	return done{units: 1, bytes: body.Size}, err
}

func (j *job) get(ctx context.Context, w *worker) (done, error) {
	i := w.rand.IntN(j.keys)
	hash := w.n%hashEvery == 0
	reply, err := w.conn.Do(ctx, &client.Request{Method: "GET", Path: "/" + j.key(i), Hash: hash})
	if err != nil {
		return done{}, err
	}
	body := j.bodies[i%len(j.bodies)]
	if reply.Bytes != body.Size || (hash && reply.SHA256 != body.SHA256) {
		return done{}, fmt.Errorf("GET %s: %d bytes, SHA-256 %s; want %d, %s: %w", j.key(i), reply.Bytes, reply.SHA256, body.Size, body.SHA256, errWrong)
	}
	d := done{units: 1, bytes: reply.Bytes}
	if hash {
		d.verified = 1
	}
	return d, nil
}

func (j *job) head(ctx context.Context, w *worker) (done, error) {
	i := w.rand.IntN(j.keys)
	reply, err := w.conn.Do(ctx, &client.Request{Method: "HEAD", Path: "/" + j.key(i)})
	if err == nil && reply.Bytes != j.bodies[i%len(j.bodies)].Size {
		err = fmt.Errorf("HEAD %s: %d bytes: %w", j.key(i), reply.Bytes, errWrong)
	}
	return done{units: 1}, err
}

// list reads one page. Every worker goes through all keys and starts again.
func (j *job) list(ctx context.Context, w *worker) (done, error) {
	query := fmt.Sprintf("list-type=2&max-keys=%d&prefix=%s%%2F", pageKeys, j.tag)
	if w.next != "" {
		query = "continuation-token=" + w.next + "&" + query
	}
	reply, err := w.conn.Do(ctx, &client.Request{Method: "GET", Path: "/" + j.side.bucket, Query: query, Keep: true})
	if err != nil {
		return done{}, err
	}
	keys := int64(bytes.Count(reply.Body, []byte("<Key>")))
	// QueryEscape is the canonical encoding but for blanks, which tokens do not have.
	w.next = url.QueryEscape(client.Element(reply.Body, "NextContinuationToken"))
	if keys == 0 || (w.next != "" && keys != pageKeys) {
		return done{}, fmt.Errorf("LIST of a page with %d keys: %w", keys, errWrong)
	}
	return done{units: keys}, nil
}

func (j *job) delete(ctx context.Context, w *worker) (done, error) {
	i := j.taken.Add(1) - 1
	if i >= int64(j.keys) {
		return done{}, errSpent
	}
	_, err := w.conn.Do(ctx, &client.Request{Method: "DELETE", Path: "/" + j.key(int(i))})
	return done{units: 1}, err
}

// multipart uploads one object in parts: over the worker's connection, or over
// as many as the step has clients.
func (j *job) multipart(ctx context.Context, w *worker) (done, error) {
	path := "/" + j.newKey()
	reply, err := w.conn.Do(ctx, &client.Request{Method: "POST", Path: path, Query: "uploads=", Keep: true})
	if err != nil {
		return done{}, fmt.Errorf("create upload: %w", err)
	}
	upload := url.QueryEscape(client.Element(reply.Body, "UploadId"))
	if upload == "" {
		return done{}, fmt.Errorf("upload without an id: %w", errWrong)
	}
	tags := make([]string, (j.step.Size+j.step.Part-1)/j.step.Part)
	part := func(c *client.Conn, i int) error {
		body := j.bodies[i%len(j.bodies)]
		reply, err := c.Do(ctx, &client.Request{Method: "PUT", Path: path, Query: fmt.Sprintf("partNumber=%d&uploadId=%s", i+1, upload), Body: body, Payload: j.step.Payload})
		tags[i] = reply.ETag
		return err
	}
	if j.step.Op == opUpload {
		err = j.side.eachOf(ctx, j.step.Clients, len(tags), part)
	} else {
		for i := range tags {
			if err = part(w.conn, i); err != nil {
				break
			}
		}
	}
	if err != nil {
		return done{}, fmt.Errorf("upload part: %w", err)
	}
	list := new(strings.Builder)
	list.WriteString("<CompleteMultipartUpload>")
	for i, tag := range tags {
		fmt.Fprintf(list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, tag)
	}
	list.WriteString("</CompleteMultipartUpload>")
	// An answer of 200 may still be an error here.
	reply, err = w.conn.Do(ctx, &client.Request{Method: "POST", Path: path, Query: "uploadId=" + upload, Body: client.Bytes([]byte(list.String())), Payload: client.Hashed, Keep: true})
	if err == nil && client.Element(reply.Body, "ETag") == "" {
		err = fmt.Errorf("complete answers %.300q: %w", reply.Body, errWrong)
	}
	return done{units: 1, bytes: int64(len(tags)) * j.step.Part}, err
}

// each calls f for 0 to n-1 over a few connections.
func (s *side) each(ctx context.Context, n int, f func(*client.Conn, int) error) error {
	return s.eachOf(ctx, makers, n, f)
}

// eachOf is each with a number of connections. The first error ends it.
func (s *side) eachOf(ctx context.Context, connections, n int, f func(*client.Conn, int) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(connections, n) {
		g.Go(func() error {
			c, err := client.New(s.target)
			if err != nil {
				return err
			}
			defer c.Close()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := f(c, i); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}
