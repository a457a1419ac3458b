// The API key, where the server wants one: kept until the tab is closed, and sent to this router only.

const NAME = "rankfleet-api-key";

export const storedKey = () => sessionStorage.getItem(NAME);

export function storeKey(key) {
  if (key) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
  dispatchEvent(new Event("rankfleet-key"));
}
