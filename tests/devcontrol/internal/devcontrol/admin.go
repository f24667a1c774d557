package devcontrol

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
)

// KeyRequest asks for an auth key. ExpirySeconds of 0 means an hour. User is the user of nodes without tags, by default the owner; with
// Foreign it is a user of another tailnet.
type KeyRequest struct {
	Reusable      bool     `json:"reusable"`
	Ephemeral     bool     `json:"ephemeral"`
	Tags          []string `json:"tags"`
	User          string   `json:"user"`
	Foreign       bool     `json:"foreign"`
	ExpirySeconds int      `json:"expirySeconds"`
}

// KeyResponse is a new auth key.
type KeyResponse struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// NodeInfo is a node in the admin API.
type NodeInfo struct {
	ID        string               `json:"id"`
	StableID  string               `json:"stableID"`
	NodeKey   string               `json:"nodeKey"`
	Name      string               `json:"name"`
	FQDN      string               `json:"fqdn"`
	Hostname  string               `json:"hostname"`
	Addresses []netip.Addr         `json:"addresses"`
	Tags      []string             `json:"tags"`
	Ephemeral bool                 `json:"ephemeral"`
	Expired   bool                 `json:"expired"`
	Online    bool                 `json:"online"`
	LastSeen  time.Time            `json:"lastSeen"`
	Endpoints []netip.AddrPort     `json:"endpoints"`
	Routes    []netip.Prefix       `json:"routes"`
	HomeDERP  tailcfg.DERPRegionID `json:"homeDERP"`
}

// AdminHandler is the API with which tests control the tailnet. Whoever can reach it controls the tailnet.
//
//	POST   /keys                {reusable, ephemeral, tags, user, foreign, expirySeconds} → {id, key}
//	POST   /keys/{id}/expire
//	GET    /nodes               → [NodeInfo]
//	POST   /nodes               {hostname, tags} → NodeInfo, a node that runs nowhere
//	DELETE /nodes/{id}
//	POST   /nodes/{id}/expire   the node must authenticate again
//	POST   /nodes/{id}/online   {online}, for a node that runs nowhere
//	POST   /nodes/{id}/name     {name}
//	POST   /nodes/{id}/tags     {tags}
//	POST   /clients             {tags, scopes} → OAuthClient, of Tailscale's API
//	POST   /clients/{id}/revoke
//	POST   /apikeys             {expirySeconds} → APIKey, of Headscale's API
//	POST   /users               {name} → {id}, of Headscale's API
//	PUT    /tagowners           {tag: [owner]}, or null: the tags, and their owners
//	GET    /keys                → [{id, tags, ephemeral, reusable, used, expires}]
//	POST   /nodes/{id}/share    {user}: with a user of another tailnet
//	POST   /policy              a tailnet policy file, which applies from now on (ParsePolicy)
//	DELETE /policy              every node may reach every node
func AdminHandler(t *Tailnet) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /keys", func(w http.ResponseWriter, r *http.Request) { createKey(t, w, r) })
	mux.HandleFunc("POST /keys/{id}/expire", func(w http.ResponseWriter, r *http.Request) {
		answer(w, t.ExpireKey(r.PathValue("id")))
	})
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, r *http.Request) { listNodes(t, w) })
	mux.HandleFunc("POST /nodes", func(w http.ResponseWriter, r *http.Request) { createStranger(t, w, r) })
	mux.HandleFunc("DELETE /nodes/{id}", onNode(func(id tailcfg.NodeID, r *http.Request) error { return t.Delete(id) }))
	mux.HandleFunc("POST /nodes/{id}/expire", onNode(func(id tailcfg.NodeID, r *http.Request) error { return t.ExpireNode(id) }))
	mux.HandleFunc("POST /nodes/{id}/online", onNode(func(id tailcfg.NodeID, r *http.Request) error {
		var req struct{ Online bool }
		if err := readJSON(r, &req); err != nil {
			return err
		}
		return t.Appear(id, req.Online)
	}))
	mux.HandleFunc("POST /nodes/{id}/name", onNode(func(id tailcfg.NodeID, r *http.Request) error {
		var req struct{ Name string }
		if err := readJSON(r, &req); err != nil {
			return err
		}
		return t.Rename(id, req.Name)
	}))
	mux.HandleFunc("POST /nodes/{id}/tags", onNode(func(id tailcfg.NodeID, r *http.Request) error {
		var req struct{ Tags []string }
		if err := readJSON(r, &req); err != nil {
			return err
		}
		return t.Update(id, func(n *Node) { n.Tags = req.Tags })
	}))
	mux.HandleFunc("POST /nodes/{id}/share", onNode(func(id tailcfg.NodeID, r *http.Request) error {
		var req struct{ User string }
		if err := readJSON(r, &req); err != nil {
			return err
		}
		return t.Share(id, req.User)
	}))
	mux.HandleFunc("POST /policy", func(w http.ResponseWriter, r *http.Request) { answer(w, loadPolicy(t, r)) })
	mux.HandleFunc("DELETE /policy", func(w http.ResponseWriter, r *http.Request) {
		t.SetPolicy(nil)
		answer(w, nil)
	})
	accessHandlers(t, mux)
	return mux
}

// accessHandlers adds the handlers that manage access to the other APIs.
func accessHandlers(t *Tailnet, mux *http.ServeMux) {
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) { listKeys(t, w) })
	mux.HandleFunc("POST /clients", func(w http.ResponseWriter, r *http.Request) {
		var req struct{ Tags, Scopes []string }
		if err := readJSON(r, &req); err != nil {
			answer(w, err)
			return
		}
		writeJSON(w, http.StatusCreated, t.NewClient(req.Tags, req.Scopes))
	})
	mux.HandleFunc("POST /clients/{id}/revoke", func(w http.ResponseWriter, r *http.Request) {
		answer(w, t.RevokeClient(r.PathValue("id")))
	})
	mux.HandleFunc("POST /apikeys", func(w http.ResponseWriter, r *http.Request) {
		var req struct{ ExpirySeconds int }
		if err := readJSON(r, &req); err != nil {
			answer(w, err)
			return
		}
		writeJSON(w, http.StatusCreated, t.NewAPIKey(time.Duration(req.ExpirySeconds)*time.Second))
	})
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		var req struct{ Name string }
		if err := readJSON(r, &req); err != nil {
			answer(w, err)
			return
		}
		writeJSON(w, http.StatusCreated, map[string]int{"id": t.NewUser(req.Name)})
	})
	mux.HandleFunc("PUT /tagowners", func(w http.ResponseWriter, r *http.Request) {
		var owners map[string][]string
		err := readJSON(r, &owners)
		if err == nil {
			t.SetTagOwners(owners)
		}
		answer(w, err)
	})
}

// listKeys returns all keys in no order, without their secrets.
func listKeys(t *Tailnet, w http.ResponseWriter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := []map[string]any{}
	for _, k := range t.keys {
		all = append(all, map[string]any{
			"id": k.ID, "tags": k.Tags, "ephemeral": k.Ephemeral, "reusable": k.Reusable, "used": k.Used, "expires": k.Expires,
		})
	}
	writeJSON(w, http.StatusOK, all)
}

func loadPolicy(t *Tailnet, r *http.Request) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return err
	}
	policy, err := ParsePolicy(text)
	if err == nil {
		t.SetPolicy(policy)
	}
	return err
}

func createKey(t *Tailnet, w http.ResponseWriter, r *http.Request) {
	req := KeyRequest{ExpirySeconds: 3600}
	if err := readJSON(r, &req); err != nil {
		answer(w, err)
		return
	}
	if err := checkTags(req.Tags); err != nil {
		answer(w, err)
		return
	}
	k := t.MintKey(AuthKey{Reusable: req.Reusable, Ephemeral: req.Ephemeral, Tags: req.Tags, User: req.User, Foreign: req.Foreign},
		time.Duration(req.ExpirySeconds)*time.Second)
	writeJSON(w, http.StatusCreated, KeyResponse{ID: k.ID, Key: k.Secret})
}

func checkTags(tags []string) error {
	for _, tag := range tags {
		if err := tailcfg.CheckTag(tag); err != nil {
			return err
		}
	}
	return nil
}

func createStranger(t *Tailnet, w http.ResponseWriter, r *http.Request) {
	var req struct {
		Hostname string
		Tags     []string
	}
	err := readJSON(r, &req)
	if err == nil {
		err = checkTags(req.Tags)
	}
	if err != nil {
		answer(w, err)
		return
	}
	writeJSON(w, http.StatusCreated, t.info(t.AddStranger(req.Hostname, req.Tags)))
}

func listNodes(t *Tailnet, w http.ResponseWriter) {
	all := []NodeInfo{}
	for _, n := range t.Nodes() {
		all = append(all, t.info(n))
	}
	writeJSON(w, http.StatusOK, all)
}

// info returns a node as the API shows it.
func (t *Tailnet) info(n Node) NodeInfo {
	info := NodeInfo{
		ID:        strconv.FormatInt(int64(n.ID), 10),
		StableID:  string(n.StableID()),
		NodeKey:   n.Key.String(),
		Name:      n.Name,
		FQDN:      n.Name + "." + t.Domain,
		Hostname:  n.Hostname,
		Addresses: n.Addresses,
		Tags:      n.Tags,
		Ephemeral: n.Ephemeral,
		Expired:   n.expired(time.Now()),
		Online:    n.Online(),
		LastSeen:  n.LastSeen,
		Endpoints: n.Endpoints,
		HomeDERP:  n.HomeDERP,
	}
	if n.Hostinfo != nil {
		info.Routes = n.Hostinfo.RoutableIPs
	}
	return info
}

// onNode returns a handler that applies a function to the node in the path.
func onNode(do func(tailcfg.NodeID, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err == nil {
			err = do(tailcfg.NodeID(id), r)
		}
		answer(w, err)
	}
}

// answer ends a request that returns nothing.
func answer(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrNotFound):
		writeJSON(w, http.StatusNotFound, map[string]string{"message": err.Error()})
	default:
		writeJSON(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
	}
}
