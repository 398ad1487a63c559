"use strict";
(() => {
  const wanted = document.getElementById("wanted");
  const rows = [...document.querySelectorAll("tbody tr")];
  const count = document.getElementById("count");
  const show = () => {
    const words = wanted.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  wanted.addEventListener("input", show);
  show();
})();
