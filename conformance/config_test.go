package conformance

import (
	"encoding/xml"
	"net/http"
	"testing"
)

// configuration is a part of a bucket's configuration and what AWS answers
// about it on a bucket where nobody ever set it.
type configuration struct {
	name string // query parameter
	root string // root element of the answer, if it is 200
	code string // error code of 404, if it is not
	body string // a valid request to set it
}

func configurations() []configuration {
	return []configuration{
		{"versioning", "VersioningConfiguration", "", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"},
		{"object-lock", "", "ObjectLockConfigurationNotFoundError", "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"},
		{"policy", "", "NoSuchBucketPolicy", `{"Version":"2012-10-17","Statement":[]}`},
		{"cors", "", "NoSuchCORSConfiguration", "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>"},
		{"lifecycle", "", "NoSuchLifecycleConfiguration", "<LifecycleConfiguration><Rule><ID>1</ID><Status>Enabled</Status><Filter/><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>"},
		{"tagging", "", "NoSuchTagSet", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"},
		{"replication", "", "ReplicationConfigurationNotFoundError", "<ReplicationConfiguration/>"},
		{"notification", "NotificationConfiguration", "", "<NotificationConfiguration/>"},
		{"logging", "BucketLoggingStatus", "", "<BucketLoggingStatus/>"},
		{"website", "", "NoSuchWebsiteConfiguration", "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument></WebsiteConfiguration>"},
		{"requestPayment", "RequestPaymentConfiguration", "", "<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>"},
	}
}

func TestConfigurationUnset(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, c := range configurations() {
		t.Run(c.name, func(t *testing.T) {
			b := b.with(t)
			r := b.bucketGet(c.name + "?")
			if c.code != "" {
				r.wantError(http.StatusNotFound, c.code)
			} else {
				var got struct {
					Inner string `xml:",innerxml"`
					Payer string
				}
				r.wantXML(c.root, &got)
				switch {
				case c.name == "requestPayment" && got.Payer != "BucketOwner":
					t.Errorf("Payer %q, want BucketOwner", got.Payer)
				case c.name != "requestPayment" && len(got.Inner) > 0:
					t.Errorf("%q inside, want nothing", got.Inner)
				}
			}
			// Also as "?name=" and of a bucket that is missing.
			if again := b.bucketGet(c.name, ""); again.status != r.status {
				t.Errorf("?%s=: status %d, without = %d", c.name, again.status, r.status)
			}
			b.do(call{method: http.MethodGet, path: "/" + randomName(), query: query(c.name + "?")}).wantError(http.StatusNotFound, "NoSuchBucket")
		})
	}
}

// Every bucket of AWS has had default encryption since January 2023; before,
// an unset one was an error. Clients know both answers.
func TestConfigurationEncryption(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	r := b.bucketGet("encryption?")
	if r.status != http.StatusOK {
		r.wantError(http.StatusNotFound, "ServerSideEncryptionConfigurationNotFoundError")
		return
	}
	var got struct {
		Algorithm string `xml:"Rule>ApplyServerSideEncryptionByDefault>SSEAlgorithm"`
	}
	r.wantXML("ServerSideEncryptionConfiguration", &got)
	if got.Algorithm != "AES256" {
		t.Errorf("SSEAlgorithm %q, want AES256", got.Algorithm)
	}
}

// The configurations of which a bucket has many are listed: none, or not
// implemented.
func TestConfigurationLists(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for name, root := range map[string]string{
		"analytics": "ListBucketAnalyticsConfigurationResult", "inventory": "ListInventoryConfigurationsResult",
		"metrics": "ListMetricsConfigurationsResult", "intelligent-tiering": "ListBucketIntelligentTieringConfigurationsOutput",
	} {
		r := b.bucketGet(name + "?")
		if r.status == http.StatusNotImplemented {
			r.wantError(http.StatusNotImplemented, "NotImplemented")
			continue
		}
		var list struct{ IsTruncated *bool }
		r.wantXML(root, &list)
		if list.IsTruncated == nil || *list.IsTruncated {
			t.Errorf("%s: IsTruncated %v", name, list.IsTruncated)
		}
	}
}

// Setting what is not implemented is refused by 501 and changes nothing, least
// of all the bucket or an object of that name.
func TestConfigurationPut(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	others := []configuration{
		{name: "encryption", body: "<ServerSideEncryptionConfiguration/>"}, {name: "accelerate", body: "<AccelerateConfiguration/>"},
		{name: "ownershipControls", body: "<OwnershipControls/>"}, {name: "publicAccessBlock", body: "<PublicAccessBlockConfiguration/>"},
		{name: "inventory", body: "<InventoryConfiguration/>"}, {name: "metrics", body: "<MetricsConfiguration/>"}, {name: "analytics", body: "<AnalyticsConfiguration/>"},
		{name: "intelligent-tiering", body: "<IntelligentTieringConfiguration/>"},
	}
	for _, c := range append(configurations(), others...) {
		t.Run(c.name, func(t *testing.T) {
			b := b.with(t)
			set := call{method: http.MethodPut, path: "/" + b.name, query: query(c.name + "?"), body: []byte(c.body)}
			set.header = headers("Content-MD5", contentMD5(set.body))
			b.do(set).wantError(http.StatusNotImplemented, "NotImplemented")
			missing := randomName()
			set.path = "/" + missing
			if r := b.do(set); r.status != http.StatusNotFound && r.status != http.StatusNotImplemented {
				t.Errorf("missing bucket: status %d", r.status)
			}
			b.do(call{method: http.MethodHead, path: "/" + missing}).want(http.StatusNotFound)
			// Deleting what is not set is 204 at AWS; 501 is honest too. It is
			// never the deletion of the bucket.
			if r := b.do(call{method: http.MethodDelete, path: "/" + b.name, query: query(c.name + "?")}); r.status != http.StatusNoContent {
				if e := r.anError(); e == nil || e.Code != "NotImplemented" && e.Code != "MethodNotAllowed" {
					t.Errorf("DELETE: status %d", r.status)
				}
			}
		})
	}
	b.get("key").want(http.StatusOK)
}

// What is not implemented answers 501, as the documentation promises, and not
// as if it were another call.
func TestNotImplemented(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	for _, tt := range []struct{ method, path, query string }{
		{http.MethodGet, "", "metadataTable"}, {http.MethodGet, "", "session"},
		{http.MethodPut, "/key", "tagging"}, {http.MethodPut, "/key", "retention"}, {http.MethodPut, "/key", "legal-hold"},
		{http.MethodPost, "/key", "restore"}, {http.MethodPost, "/key", "select"}, {http.MethodGet, "/key", "torrent"},
		{http.MethodPut, "/key", "renameObject"},
	} {
		c := call{method: tt.method, path: "/" + b.name + tt.path, query: query(tt.query + "?")}
		if tt.query == "select" {
			c.query = query("select?", "select-type", "2")
		}
		if tt.method != http.MethodGet {
			c.body = []byte("<X/>")
			c.header = headers("Content-MD5", contentMD5(c.body))
		}
		r := b.do(c)
		if e := r.anError(); e == nil || r.status != http.StatusNotImplemented || e.Code != "NotImplemented" {
			t.Errorf("%s: status %d, %+v, want 501 NotImplemented", r.call, r.status, e)
		}
	}
	b.get("key").want(http.StatusOK).wantBody([]byte("x"))
	// Deletion of tags is not deletion of the object.
	b.do(call{method: http.MethodDelete, path: b.path("key"), query: query("tagging?")})
	b.get("key").want(http.StatusOK).wantBody([]byte("x"))
	// Neither is a part of the configuration that nobody asked for created.
	b.wantAbsent("tagging")
}

// The owner has full control, as in every new bucket.
func TestDefaultACL(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	for _, path := range []string{"/" + b.name, b.path("key")} {
		var acl accessControl
		b.do(call{method: http.MethodGet, path: path, query: query("acl?")}).wantXML("AccessControlPolicy", &acl)
		if acl.Owner.ID == "" || len(acl.Grant) != 1 || acl.Grant[0].Permission != "FULL_CONTROL" ||
			acl.Grant[0].Grantee.ID != acl.Owner.ID || acl.Grant[0].Grantee.Type != "CanonicalUser" {
			t.Errorf("%s: %+v", path, acl)
		}
		put := func(acl string) *reply {
			return b.do(call{method: http.MethodPut, path: path, query: query("acl?"), header: headers("x-amz-acl", acl)})
		}
		put("private").want(http.StatusOK)
		for _, acl := range []string{"public-read", "public-read-write", "authenticated-read"} {
			put(acl).wantError(http.StatusBadRequest, "AccessControlListNotSupported")
		}
	}
	b.get("key").want(http.StatusOK).wantBody([]byte("x"))
	b.do(call{method: http.MethodGet, path: b.path("missing"), query: query("acl?")}).wantError(http.StatusNotFound, "NoSuchKey")

	// On the way with other calls.
	b.put("private", []byte("x"), "x-amz-acl", "private")
	b.put("owner", []byte("x"), "x-amz-acl", "bucket-owner-full-control")
	b.request(http.MethodPut, "public", []byte("x"), "x-amz-acl", "public-read").wantError(http.StatusBadRequest, "AccessControlListNotSupported")
	b.wantAbsent("public")
	b.do(call{method: http.MethodPost, path: b.path("public"), query: query("uploads?"), header: headers("x-amz-acl", "public-read")}).
		wantError(http.StatusBadRequest, "AccessControlListNotSupported")
	b.copy("/"+b.name+"/key", "public", "x-amz-acl", "public-read").wantError(http.StatusBadRequest, "AccessControlListNotSupported")
	b.wantAbsent("public")
}

func TestGetObjectTagging(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	get := call{method: http.MethodGet, path: b.path("key"), query: query("tagging?")}
	var tags struct {
		XMLName xml.Name
		TagSet  *struct{ Tag []struct{ Key, Value string } }
	}
	b.do(get).wantXML("Tagging", &tags)
	if tags.TagSet == nil || len(tags.TagSet.Tag) != 0 {
		t.Errorf("TagSet %+v, want an empty one", tags.TagSet)
	}
	get.query = query("tagging?", "versionId", "null")
	b.do(get).wantXML("Tagging", nil)
	b.do(call{method: http.MethodGet, path: b.path("missing"), query: query("tagging?")}).wantError(http.StatusNotFound, "NoSuchKey")
}
