// A page of many tables (the zoo) gets a field that shows only the rows with all the words typed into it.
document.addEventListener("DOMContentLoaded", () => {
  const headings = [...document.querySelectorAll(".md-content h2")];
  const rows = [...document.querySelectorAll(".md-content tbody tr")];
  if (rows.length < 300) return;
  const field = document.createElement("input");
  Object.assign(field, { className: "row-filter", type: "search", placeholder: `Filter ${rows.length} rows: resnet50, mit, 3x224x224 ...` });
  field.setAttribute("aria-label", "Filter the rows of all tables");
  headings[0].before(field);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    for (const heading of headings) {
      const table = heading.nextElementSibling;
      if (!table?.querySelector("tbody")) continue;
      heading.hidden = table.hidden = !table.querySelector("tbody tr:not([hidden])");
    }
  });
});
