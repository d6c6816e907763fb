// Making and updating elements. Whatever a model wrote reaches the page as text nodes only, never as markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === false || value == null) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// As many children as asked for; those that stay keep their focus.
function pool(parent, count, create) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(create(parent.children.length));
  return [...parent.children];
}

const number = (value, digits = 3) => value.toFixed(digits).replace("-", "−");
const signed = (value) => (value < 0 ? "" : "+") + number(value, 2);
const clamp = (value, low, high) => Math.min(Math.max(value, Math.min(low, high)), Math.max(low, high));

function choice(label, onchange) {
  const select = html("select", { "aria-label": label, onchange: () => onchange(select.value) });
  function offer(names, chosen) {
    pool(select, names.length, () => html("option")).forEach((option, i) => {
      option.value = names[i];
      put(option, names[i] || "—");
    });
    select.value = chosen;
  }
  return { offer, root: html("label", { class: "pr1-choice" }, html("span", {}, label), select) };
}
