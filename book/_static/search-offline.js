/* Search results quote a page by fetching it, which browsers refuse for files on disk: there, list
   the pages without the quotations. (The options are a `const`, so `window` does not have them.) */
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
