package devcontrol

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Access contains the clients and keys of the HTTP APIs, with their permissions. It is part of a tailnet, guarded by the tailnet's lock,
// and saved with it.
type Access struct {
	// TagOwners is that section of the policy file. Nil: there is no policy file, and every client may assign every tag.
	TagOwners map[string][]string
	Clients   []*OAuthClient
	APIKeys   []*APIKey
	Users     []string // of Headscale; the first has ID 1
}

// OAuthClient is a client that may request tokens from Tailscale's API.
type OAuthClient struct {
	ID      string   `json:"id"`
	Secret  string   `json:"secret"`
	Tags    []string `json:"tags"`
	Scopes  []string `json:"scopes"` // such as auth_keys, devices:core, devices:core:read
	Revoked bool     `json:"revoked"`
}

// APIKey gives access to Headscale's API.
type APIKey struct {
	Key     string    `json:"key"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// An API key is hskey-api-ID-SECRET.
const (
	apiKeyPrefix = "hskey-api-"
	apiKeyID     = 12 // characters
)

// token is what a client gets in exchange for its secret. Tokens are not saved, because clients request new ones after a restart.
type token struct {
	client  *OAuthClient
	expires time.Time
}

const tokenLifetime = time.Hour

// has reports whether the client has a scope, or a scope that contains it.
func (c *OAuthClient) has(scope string) bool {
	return slices.ContainsFunc(c.Scopes, func(own string) bool {
		return own == scope || own == "all" || own+":read" == scope
	})
}

// NewClient creates an OAuth client.
func (t *Tailnet) NewClient(tags, scopes []string) OAuthClient {
	c := &OAuthClient{ID: "k" + rand.Text()[:11] + "CNTRL", Tags: tags, Scopes: scopes}
	c.Secret = "tskey-client-" + c.ID + "-" + rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.Clients = append(t.access.Clients, c)
	t.dirty = true
	return *c
}

// RevokeClient revokes a client and its tokens.
func (t *Tailnet) RevokeClient(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.access.Clients {
		if c.ID == id {
			c.Revoked, t.dirty = true, true
			return nil
		}
	}
	return fmt.Errorf("client %q: %w", id, ErrNotFound)
}

// NewAPIKey creates a key for Headscale's API.
func (t *Tailnet) NewAPIKey(expiry time.Duration) APIKey {
	now := time.Now()
	k := &APIKey{Key: apiKeyPrefix + rand.Text()[:apiKeyID] + "-" + rand.Text(), Created: now, Expires: now.Add(expiry)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.APIKeys = append(t.access.APIKeys, k)
	t.dirty = true
	return *k
}

// NewUser creates a user of Headscale, and returns its ID.
func (t *Tailnet) NewUser(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.Users = append(t.access.Users, name)
	t.dirty = true
	return len(t.access.Users)
}

// SetTagOwners replaces that section of the policy file; nil removes it.
func (t *Tailnet) SetTagOwners(owners map[string][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.TagOwners = owners
	t.dirty = true
}

// login exchanges a client's secret for a token. ok is false if the secret is unknown or revoked.
func (t *Tailnet) login(secret string) (text string, client OAuthClient, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.access.Clients {
		if c.Secret == secret && !c.Revoked {
			text = "tskey-api-" + rand.Text()[:12] + "CNTRL-" + rand.Text()
			t.tokens[text] = token{c, time.Now().Add(tokenLifetime)}
			return text, *c, true
		}
	}
	return "", OAuthClient{}, false
}

// bearer returns the client of a token.
func (t *Tailnet) bearer(text string) (OAuthClient, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tok, ok := t.tokens[text]
	if !ok || tok.client.Revoked || time.Now().After(tok.expires) {
		return OAuthClient{}, false
	}
	return *tok.client, true
}

// opens reports whether a key gives access to Headscale's API.
func (t *Tailnet) opens(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.access.APIKeys, func(k *APIKey) bool { return k.Key == key && time.Now().Before(k.Expires) })
}

// mayGive reports whether a client may assign these tags to a device: all must be in the policy file, and they must be exactly the client's
// tags or each be owned by one of these.
func (t *Tailnet) mayGive(c OAuthClient, tags []string) bool {
	if len(tags) == 0 || !t.inPolicy(tags) {
		return false
	}
	if sameTags(c.Tags, tags) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.access.TagOwners == nil || !slices.ContainsFunc(tags, func(tag string) bool {
		return !slices.ContainsFunc(t.access.TagOwners[tag], func(owner string) bool { return slices.Contains(c.Tags, owner) })
	})
}

// inPolicy reports whether all tags are in the policy file.
func (t *Tailnet) inPolicy(tags []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.access.TagOwners == nil || !slices.ContainsFunc(tags, func(tag string) bool {
		_, ok := t.access.TagOwners[tag]
		return !ok
	})
}

// hasUser reports whether Headscale has a user with that ID.
func (t *Tailnet) hasUser(id int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return id >= 1 && id <= len(t.access.Users)
}

func sameTags(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// quoteTags formats tags as in errors of Tailscale's API.
func quoteTags(tags []string) string { return "[" + strings.Join(tags, " ") + "]" }
