package gateway

import (
	"errors"
	"net/http"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// maxBuckets is the most buckets of one page.
const maxBuckets = 10_000

// listBuckets answers ListBuckets.
func (s *Server) listBuckets(c *call) error {
	limit, err := wire.ParseCount("max-buckets", c.query.Get("max-buckets"), 1, maxBuckets)
	if err != nil {
		return err
	}
	if v := c.query.Get("max-buckets"); len(v) > 5 || len(v) == 5 && v > "10000" {
		return wire.InvalidArgument.Say("Argument max-buckets must be an integer between 1 and 10000").
			With("ArgumentName", "max-buckets").With("ArgumentValue", v)
	}
	req := &object.BucketsRequest{Prefix: c.query.Get("prefix"), Limit: limit}
	if token := c.query.Get("continuation-token"); token != "" {
		if req.After, err = openToken(token); err != nil {
			return err
		}
	}
	page := &object.BucketsPage{}
	if region := c.query.Get("bucket-region"); region == "" || region == s.opts.Region {
		if page, err = s.objects.Buckets(c.ctx, req); err != nil {
			return err
		}
	}
	e := wire.NewListBuckets(c.w, s.opts.Owner)
	for _, b := range page.Buckets {
		e.Bucket(&wire.Bucket{Name: b.Name, Created: b.Created, Region: s.opts.Region})
	}
	next := ""
	if page.Truncated && len(page.Buckets) > 0 {
		next = sealToken(page.Buckets[len(page.Buckets)-1].Name)
	}
	e.EndBuckets(req.Prefix, next)
	return c.sendXML(e)
}

// legacyRegion is the region where AWS answers 200 to the creation of a bucket
// that its owner has already.
const legacyRegion = "us-east-1"

// createBucket answers CreateBucket.
func (s *Server) createBucket(c *call) error {
	h := c.r.Header
	if err := checkACL(h); err != nil {
		return err
	}
	if h.Get("X-Amz-Bucket-Object-Lock-Enabled") == "true" {
		return notImplemented(noLock).With("Header", "x-amz-bucket-object-lock-enabled")
	}
	switch v := h.Get(wire.HeaderObjectOwnership); v {
	case "", "BucketOwnerEnforced":
	case "BucketOwnerPreferred", "ObjectWriter":
		return notImplemented("Access control lists are not offered: every bucket has BucketOwnerEnforced.").With("Header", "x-amz-object-ownership")
	default:
		return wire.InvalidArgument.Say("Invalid x-amz-object-ownership header: "+v).With("ArgumentName", "x-amz-object-ownership")
	}
	doc, err := c.document()
	if err != nil {
		return err
	}
	location, directory, tags, err := wire.ReadCreateBucket(doc)
	switch {
	case err != nil:
		return err
	case directory:
		return notImplemented(noDirectorySession)
	case tags:
		return notImplemented(noTags)
	case location != "" && location != s.opts.Region:
		return wire.InvalidLocationConstraint.With("LocationConstraint", location)
	}
	err = s.objects.CreateBucket(c.ctx, c.bucket)
	if errors.Is(err, metadata.ErrBucketExists) && s.opts.Region == legacyRegion {
		err = nil
	}
	if err != nil {
		return err
	}
	c.w.Header().Set("Location", "/"+c.bucket)
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// headBucket answers HeadBucket.
func (s *Server) headBucket(c *call) error {
	if _, err := s.objects.Bucket(c.ctx, c.bucket); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("X-Amz-Access-Point-Alias", "false")
	h.Set("Content-Type", wire.ContentTypeXML)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// deleteBucket answers DeleteBucket.
func (s *Server) deleteBucket(c *call) error {
	if err := s.objects.DeleteBucket(c.ctx, c.bucket); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// bucketLocation answers GetBucketLocation.
func (s *Server) bucketLocation(c *call) error {
	if _, err := s.objects.Bucket(c.ctx, c.bucket); err != nil {
		return err
	}
	return c.sendXML(wire.NewLocation(c.w, s.opts.Region))
}

// getBucketACL answers GetBucketAcl: the owner has full control.
func (s *Server) getBucketACL(c *call) error {
	if _, err := s.objects.Bucket(c.ctx, c.bucket); err != nil {
		return err
	}
	return c.sendXML(wire.NewACL(c.w, s.opts.Owner))
}

// getObjectACL answers GetObjectAcl: the owner has full control.
func (s *Server) getObjectACL(c *call) error {
	info, err := s.exists(c)
	if err != nil {
		return err
	}
	setVersion(c.w.Header(), info.VersionID, info.Null)
	return c.sendXML(wire.NewACL(c.w, s.opts.Owner))
}

// putBucketACL answers PutBucketAcl.
func (s *Server) putBucketACL(c *call) error {
	if err := s.checkPutACL(c); err != nil {
		return err
	}
	if _, err := s.objects.Bucket(c.ctx, c.bucket); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// putObjectACL answers PutObjectAcl.
func (s *Server) putObjectACL(c *call) error {
	if err := s.checkPutACL(c); err != nil {
		return err
	}
	info, err := s.exists(c)
	if err != nil {
		return err
	}
	setVersion(c.w.Header(), info.VersionID, info.Null)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// checkPutACL takes an ACL that changes nothing and refuses every other.
func (s *Server) checkPutACL(c *call) error {
	if err := checkACL(c.r.Header); err != nil {
		return err
	}
	doc, err := c.document()
	if err != nil {
		return err
	}
	owner, grants, ok, err := wire.ReadACL(doc)
	switch {
	case err != nil:
		return err
	case !ok && c.r.Header.Get(wire.HeaderACL) == "":
		return wire.NewError(http.StatusBadRequest, "MissingSecurityHeader", "Your request was missing a required header").
			With("MissingHeaderName", "x-amz-acl")
	case !ok:
		return nil
	case owner != "" && owner != s.opts.Owner.ID:
		return wire.AccessDenied
	}
	if len(grants) != 1 || grants[0].GranteeID != s.opts.Owner.ID || grants[0].Permission != "FULL_CONTROL" {
		return wire.AccessControlListNotSupported
	}
	return nil
}

// preflight answers OPTIONS: no bucket has a CORS configuration yet. AWS says
// so to anybody, whether or not the bucket exists.
func (s *Server) preflight(c *call) error {
	if c.r.Header.Get("Origin") == "" {
		return wire.BadRequest.Say("Insufficient information. Origin request header needed.")
	}
	method := c.r.Header.Get("Access-Control-Request-Method")
	if method == "" {
		return wire.BadRequest.Say("Invalid Access-Control-Request-Method: null")
	}
	return wire.AccessForbidden.With("Method", method).With("ResourceType", c.level().String())
}
