// Hide and show code: a button on each cell, one for the page, and the choice is kept. Wide formulas are made to fit.
(() => {
    const KEY = "nsf-nb-code";

    function fold(cell, hidden) {
        cell.classList.toggle("folded", hidden);
        const button = cell.querySelector(":scope > .fold");
        button.setAttribute("aria-expanded", String(!hidden));
        button.textContent = hidden ? "Show code" : "Hide code";
    }

    window.toggleCode = () => {
        const hidden = localStorage.getItem(KEY) !== "hidden";
        localStorage.setItem(KEY, hidden ? "hidden" : "shown");
        document.querySelectorAll("div.cell_input").forEach((cell) => fold(cell, hidden));
    };

    document.addEventListener("DOMContentLoaded", () => {
        const hidden = localStorage.getItem(KEY) === "hidden";
        document.querySelectorAll("div.cell_input").forEach((cell) => {
            const button = document.createElement("button");
            button.type = "button";
            button.className = "fold";
            button.addEventListener("click", () => fold(cell, !cell.classList.contains("folded")));
            cell.prepend(button);
            fold(cell, hidden);
        });
        window.MathJax?.startup?.promise?.then(fit);
        addSummaries();
    });

    // A displayed formula that is wider than its line gets smaller, down to three quarters; what is wider still scrolls.
    const FULL = 102, LEAST = 76;
    function fit() {
        document.querySelectorAll("div.math > mjx-container").forEach((formula) => {
            formula.style.setProperty("font-size", `${FULL}%`, "important");
            const line = formula.parentElement;
            for (let size = FULL - 2; size >= LEAST && line.scrollWidth > line.clientWidth; size -= 2) {
                formula.style.setProperty("font-size", `${size}%`, "important");
            }
        });
    }
    window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(fit));
    window.addEventListener("resize", () => window.MathJax?.startup?.promise?.then(fit));

    // What the search shows of a page is its text, without the lists of contents and the buttons around it.
    function addSummaries() {
        if (typeof Search === "undefined") {
            return;
        }
        const whole = Search.htmlToText;
        Search.htmlToText = (text, anchor) => {
            const page = new DOMParser().parseFromString(text, "text/html");
            const around = ".bd-header-article, .bd-sidebar-secondary, #jb-print-docs-body, .chapter-meta, .prev-next-footer, div.math";
            page.querySelectorAll(around).forEach((part) => part.remove());
            page.querySelectorAll("span.math").forEach((part) => part.replaceWith("…"));
            return whole(page.documentElement.outerHTML, anchor);
        };
    }
})();
