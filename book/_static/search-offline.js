/* Search results quote a page by fetching it, which browsers refuse for files on disk: there, list
   the pages without the quotations. */
if (location.protocol === "file:" && window.DOCUMENTATION_OPTIONS) {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
